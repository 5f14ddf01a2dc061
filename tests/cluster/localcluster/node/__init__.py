"""The process node: to the API server a set of kubelets, on this machine local processes.

Every Node of `nodes.yaml` is registered and kept alive by heartbeats; the pods bound to it run as
processes of the user who started us. Pure modules decide (`resolve`, `view`, `probes`, `restarts`,
`status`), thin ones touch the world (`api`, `volumes`, `process`, `container`, `pod`, `kubelet`,
`server`).

Not honoured, on purpose: users, capabilities and resource limits (processes share one machine),
live sidecars (init containers with restartPolicy Always), ephemeral containers, gRPC probes,
activeDeadlineSeconds, `kubectl exec`, `attach` and `port-forward`, log timestamps.
"""
