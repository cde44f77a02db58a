"""The node agent: it has the pods that the scheduler gives it run, and says how they do."""
