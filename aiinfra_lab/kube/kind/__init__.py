"""The provider ``kind``: a Kubernetes whose nodes are containers, made by the program kind."""
