"""What a pod is given before it runs: its environment, files, address and devices."""
