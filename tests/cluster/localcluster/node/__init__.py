"""The process node: a set of kubelets for the API server, which run pods as local processes.

It registers every node of `nodes.yaml` and sends heartbeats. The pods that are bound to a node run
as processes of the current user. Pure modules decide (`resolve`, `view`, `probes`, `restarts`,
`status`), and thin modules do the I/O (`api`, `volumes`, `process`, `container`, `pod`, `kubelet`,
`server`).

Not supported by design: users, capabilities and resource limits (all processes share one machine),
sidecars (init containers with restartPolicy Always), ephemeral containers, gRPC probes,
subPathExpr, activeDeadlineSeconds, `kubectl exec`, `attach` and `port-forward`, timestamps and
--since of logs, and the logs of pods that ended before this process started. Except with
hostNetwork, each pod has its own loopback address instead of a network namespace: 0.0.0.0 in its
arguments and environment is replaced by that address, but 127.0.0.1 and localhost belong to the
whole machine. The pods end with this process; after a restart it runs them again and counts one
more restart.
"""
