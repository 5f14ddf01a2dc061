{{- define "avatar.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* No more than 45 characters, so that a name with the longest suffix, -operator-services, has no more than 63. */}}
{{- define "avatar.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "avatar.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Call with (dict "root" $ "component" "operator"). Omit component for objects that belong to the whole release. */}}
{{- define "avatar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "avatar.selectorLabels" . }}
{{- end -}}

{{- define "avatar.selectorLabels" -}}
app.kubernetes.io/name: avatar-operator
app.kubernetes.io/instance: {{ .root.Release.Name | trunc 63 }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Call with (dict "root" $ "image" .Values.operator.image). */}}
{{- define "avatar.image" -}}
{{- $image := .image -}}
{{- with $image.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Call with (dict "root" $ "component" "operator"). */}}
{{- define "avatar.serviceAccountName" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- printf "%s-%s" (include "avatar.fullname" .root) .component -}}
{{- else -}}
{{- fail (printf "%s.serviceAccount.name must be set to an existing ServiceAccount if %s.serviceAccount.create is false" .component .component) -}}
{{- end -}}
{{- end -}}

{{- define "avatar.apiKeySecret" -}}
{{- if and .Values.gateway.apiKey.existingSecret .Values.gateway.apiKey.value -}}
{{- fail "gateway.apiKey.existingSecret must not be set together with gateway.apiKey.value" -}}
{{- end -}}
{{- .Values.gateway.apiKey.existingSecret | default (printf "%s-api-key" (include "avatar.fullname" .)) -}}
{{- end -}}

{{/*
With --reuse-values, the values of an earlier release contain operator.logFormat and do not contain logFormat.
*/}}
{{- define "avatar.logFormat" -}}
{{- .Values.operator.logFormat | default .Values.logFormat | default "json" -}}
{{- end -}}

{{- define "avatar.controlSecret" -}}
{{- printf "%s-control" (include "avatar.fullname" .) -}}
{{- end -}}

{{- define "avatar.gatewaySecret" -}}
{{- printf "%s-gateway-key" (include "avatar.fullname" .) -}}
{{- end -}}

{{- define "avatar.lease" -}}
{{- printf "%s-operator" (include "avatar.fullname" .) -}}
{{- end -}}

{{/* Scheduling fields of a pod spec, from the values of a component. Call with the values of the component. */}}
{{- define "avatar.podPlacement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* 10 also with --reuse-values of a release that did not have the value. */}}
{{- define "avatar.drainDelay" -}}
{{- $delay := .Values.gateway.drainDelaySeconds -}}
{{- if kindIs "invalid" $delay }}10{{ else }}{{ int $delay }}{{ end -}}
{{- end -}}

{{- define "avatar.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Security context of a pod: (dict "root" $ "context" .Values.operator.podSecurityContext). OpenShift assigns user IDs
from a range of the namespace and rejects fixed ones.
*/}}
{{- define "avatar.podSecurityContext" -}}
{{- $context := .context | default dict -}}
{{- if .root.Values.openshift -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* The value of AVATAR_RUNTIME_DEFAULTS; empty with --reuse-values of a release that did not have it. */}}
{{- define "avatar.runtimeDefaults" -}}
{{- $defaults := .Values.runtime.defaults | default dict | deepCopy -}}
{{- if .Values.openshift -}}
{{- $usual := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- $context := omit ($defaults.podSecurityContext | default $usual) "runAsUser" "runAsGroup" "fsGroup" -}}
{{- $_ := set $defaults "podSecurityContext" $context -}}
{{- end -}}
{{- if $defaults }}{{ toJson $defaults }}{{ end -}}
{{- end -}}

{{/* Rules and peers of NetworkPolicies. All ports have a protocol, as the API server stores them. */}}
{{- define "avatar.egressDNS" -}}
- ports:
  {{- range (.Values.networkPolicy.dns).ports | default (list 53) }}
  - {protocol: UDP, port: {{ . }}}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
  {{- with (.Values.networkPolicy.dns).to }}
  to:
    {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "avatar.egressAPIServer" -}}
- ports:
  {{- range (.Values.networkPolicy.apiServer).ports | default (list 443 6443) }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
  {{- with (.Values.networkPolicy.apiServer).to }}
  to:
    {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "avatar.runtimePeer" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: avatar-runtime
  {{- with .Values.operator.watchNamespaces }}
  namespaceSelector:
    matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values:
        {{- toYaml . | nindent 6 }}
  {{- else }}
  namespaceSelector: {}
  {{- end }}
{{- end -}}

{{/* A component of this release, for policies in other namespaces: (dict "root" $ "component" "gateway"). */}}
{{- define "avatar.componentPeer" -}}
- podSelector:
    matchLabels:
      {{- include "avatar.selectorLabels" . | nindent 6 }}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .root.Release.Namespace }}
{{- end -}}

{{/*
The rules of the NetworkPolicy that the operator creates for each AvatarService. Sessions are accepted from the gateway
only. If /metrics is open and metricsFrom is empty, every pod can connect to the admin port, as for the other components.
*/}}
{{- define "avatar.runtimeNetworkPolicy" -}}
{{- $policy := .Values.networkPolicy -}}
policyTypes: [Ingress, Egress]
ingress:
- ports:
  - {protocol: TCP, port: 8080}
  from:
  {{- include "avatar.componentPeer" (dict "root" $ "component" "gateway") | nindent 2 }}
- ports:
  - {protocol: TCP, port: 9090}
  {{- if not (and .Values.monitoring.openMetrics (empty $policy.metricsFrom)) }}
  from:
  {{- include "avatar.componentPeer" (dict "root" $ "component" "gateway") | nindent 2 }}
  {{- include "avatar.componentPeer" (dict "root" $ "component" "operator") | nindent 2 }}
  {{- with $policy.metricsFrom }}
    {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
egress:
{{ include "avatar.egressDNS" . }}
{{- with ($policy.runtime).extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The number of a Kubernetes quantity, for example of 512Mi. */}}
{{- define "avatar.quantity" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]+)?" $text -}}
{{- $suffix := trimPrefix $number $text -}}
{{- $factors := dict "" 1 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
    "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- if or (not $number) (not (hasKey $factors $suffix)) -}}
{{- fail (printf "%q is not a quantity, for example 500m or 512Mi" $text) -}}
{{- end -}}
{{- mulf (float64 $number) (get $factors $suffix) -}}
{{- end -}}

{{/* The egress rules of the pods that download the source of an Avatar: DNS, and http and https, except to addresses of
the link, where clouds serve credentials. Some network plugins match pods by selectors only. */}}
{{- define "avatar.preparationEgress" -}}
{{- $preparation := (.Values.networkPolicy).preparation | default dict -}}
{{ include "avatar.egressDNS" . }}
- ports:
  {{- range $preparation.ports | default (list 80 443) }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
  to:
  {{- with $preparation.to }}
    {{- toYaml . | nindent 2 }}
  {{- else }}
  - ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}
  - ipBlock: {cidr: "::/0", except: ["fe80::/10", "fd00:ec2::254/128"]}
  - namespaceSelector: {}
  {{- end }}
{{- end -}}
