"""Nodes with the real kubelet, containerd and kube-proxy, each in its own namespaces; as root."""
