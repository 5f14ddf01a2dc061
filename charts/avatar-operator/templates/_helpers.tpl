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

{{/*
Labels of an object: (dict "root" $ "component" "operator"). Omit component for objects that belong to the whole
release. Those of the chart take precedence over the optional labels, and these over commonLabels.
*/}}
{{- define "avatar.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63)
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
-}}
{{- $own = merge $own (include "avatar.selectorLabels" . | fromYaml) -}}
{{- toYaml (merge $own (.labels | default dict) (.root.Values.commonLabels | default dict)) -}}
{{- end -}}

{{/*
Metadata of an object: (dict "root" $ "name" NAME). Optional are namespace, component, and labels and annotations, which
take precedence over commonLabels and commonAnnotations.
*/}}
{{- define "avatar.metadata" -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "avatar.labels" . | nindent 2 }}
{{- with merge dict (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Metadata of the pods of a component: (dict "root" $ "component" "gateway" "values" .Values.gateway). */}}
{{- define "avatar.podMetadata" -}}
{{- $values := .values | default dict -}}
labels:
  {{- include "avatar.labels" (merge (dict "labels" ($values.podLabels | default dict)) .) | nindent 2 }}
{{- with merge dict ($values.podAnnotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "avatar.selectorLabels" -}}
app.kubernetes.io/name: avatar-operator
app.kubernetes.io/instance: {{ .root.Release.Name | trunc 63 | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Call with (dict "root" $ "image" .Values.operator.image). */}}
{{- define "avatar.image" -}}
{{- $image := .image -}}
{{- with $image.registry | default (.root.Values.global).imageRegistry }}{{ . | trimSuffix "/" }}/{{ end -}}
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

{{/* The Secret of the certificate of the component that serves TLS: (list $ "gateway") or (list $ "ingress"). */}}
{{- define "avatar.certificateSecret" -}}
{{- $root := index . 0 -}}
{{- $certificate := $root.Values.gateway.certificate | default dict -}}
{{- if and $certificate.enabled (eq ($certificate.usedBy | default "gateway") (index . 1)) -}}
{{- $certificate.secretName | default (printf "%s-tls" (include "avatar.fullname" $root)) -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the certificate of the gateway pods; empty if they serve without encryption. */}}
{{- define "avatar.gatewayTLSSecret" -}}
{{- (.Values.gateway.tls).secretName | default (include "avatar.certificateSecret" (list . "gateway")) -}}
{{- end -}}

{{- define "avatar.lease" -}}
{{- printf "%s-operator" (include "avatar.fullname" .) -}}
{{- end -}}

{{/*
Fields of a pod spec, from the values of a component: (dict "root" $ "values" .Values.operator). For pods of a Deployment
also "component": its replicas prefer different nodes, and a topology spread constraint without a labelSelector selects
its pods.
*/}}
{{- define "avatar.podSettings" -}}
{{- $component := . -}}
enableServiceLinks: false
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "dnsConfig" "hostAliases" }}
{{- with get $component.values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if .values.affinity }}
affinity:
  {{- toYaml .values.affinity | nindent 2 }}
{{- else if .component }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "avatar.selectorLabels" . | nindent 12 }}
{{- end }}
{{- if and .component .values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- $selector := dict "matchLabels" (include "avatar.selectorLabels" . | fromYaml) }}
{{- range .values.topologySpreadConstraints }}
- {{- toYaml (hasKey . "labelSelector" | ternary . (set (deepCopy .) "labelSelector" $selector)) | nindent 2 }}
{{- end }}
{{- end }}
{{- include "avatar.imagePullSecrets" .root }}
{{- end -}}

{{/* Fields of a container that the values of a component add. Call with the values of the component. */}}
{{- define "avatar.extraContainer" -}}
{{- with .extraArgs }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The default of Kubernetes with --reuse-values of a release without the value; 0 is a value. */}}
{{- define "avatar.revisionHistoryLimit" -}}
{{- if kindIs "invalid" .revisionHistoryLimit }}10{{ else }}{{ int .revisionHistoryLimit }}{{ end -}}
{{- end -}}

{{/* Whether the pods of a component get the token of their ServiceAccount; true if the value is missing. */}}
{{- define "avatar.automountToken" -}}
{{- ne (toString .automountServiceAccountToken) "false" -}}
{{- end -}}

{{/* 10 also with --reuse-values of a release that did not have the value. */}}
{{- define "avatar.drainDelay" -}}
{{- $delay := .Values.gateway.drainDelaySeconds -}}
{{- if kindIs "invalid" $delay }}10{{ else }}{{ int $delay }}{{ end -}}
{{- end -}}

{{/* Names of pull secrets, without repetitions, as a JSON list: (list $ .Values.imagePullSecrets). */}}
{{- define "avatar.pullSecretNames" -}}
{{- $names := list -}}
{{- range concat (((index . 0).Values.global).imagePullSecrets | default list) (index . 1 | default list) -}}
{{- $names = append $names (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) -}}
{{- end -}}
{{- toJson (uniq $names) -}}
{{- end -}}

{{- define "avatar.imagePullSecrets" -}}
{{- with include "avatar.pullSecretNames" (list . .Values.imagePullSecrets) | fromJsonArray }}
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

{{/* The namespaces that the operator watches; nothing if it watches all. */}}
{{- define "avatar.watchedNamespaces" -}}
{{- with .Values.operator.watchNamespaces -}}
namespaceSelector:
  matchExpressions:
  - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end -}}
{{- end -}}

{{- define "avatar.runtimePeer" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: avatar-runtime
  {{- include "avatar.watchedNamespaces" . | default "namespaceSelector: {}" | nindent 2 }}
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

{{/* The volume source of the model cache as JSON: the kind that is set besides emptyDir, which is the default. */}}
{{- define "avatar.modelCacheVolume" -}}
{{- $volume := (.Values.modelCache | default dict).volume | default dict -}}
{{- if and $volume.hostPath $volume.persistentVolumeClaim -}}
{{- fail "modelCache.volume has both hostPath and persistentVolumeClaim; set one of them to null" -}}
{{- end -}}
{{- if $volume.hostPath -}}
{{- dict "hostPath" $volume.hostPath | toJson -}}
{{- else if $volume.persistentVolumeClaim -}}
{{- dict "persistentVolumeClaim" $volume.persistentVolumeClaim | toJson -}}
{{- else -}}
{{- dict "emptyDir" ($volume.emptyDir | default dict) | toJson -}}
{{- end -}}
{{- end -}}
