"""The operator: reads the cluster, plans, applies."""
