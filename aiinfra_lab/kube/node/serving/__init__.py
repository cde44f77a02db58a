"""What a node answers: logs, exec and port-forward, over HTTPS, to the API server alone."""
