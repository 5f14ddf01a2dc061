"""The process node: to the API server a set of kubelets, on this machine local processes.

Every Node of `nodes.yaml` is registered and kept alive by heartbeats; the pods bound to it run as
processes of the user who started us. Pure modules decide (`resolve`, `view`, `probes`, `restarts`,
`status`), thin ones touch the world (`api`, `volumes`, `process`, `container`, `pod`, `kubelet`,
`server`).

Not honoured, on purpose: users, capabilities and resource limits (processes share one machine),
sidecars (init containers with restartPolicy Always), ephemeral containers, gRPC probes,
subPathExpr, activeDeadlineSeconds, `kubectl exec`, `attach` and `port-forward`, and in logs
timestamps, --since and those of pods that ended before this process started. Pods with hostNetwork
aside, each pod has a loopback address of its own instead of a network namespace: 0.0.0.0 in its
arguments and environment becomes that address, but 127.0.0.1 and localhost are the whole machine's.
Processes do not survive this process; its next life runs them again, with one restart more.
"""
