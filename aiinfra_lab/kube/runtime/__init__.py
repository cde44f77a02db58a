"""The container runtime: a program that runs containers as processes and watches them."""
