{{/* The name of the chart, or nameOverride. */}}
{{- define "replicator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The prefix of all object names, at most 46 characters: CronJob names are short, and suffixes are added. */}}
{{- define "replicator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else if contains (include "replicator.name" .) .Release.Name }}
{{- .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "replicator.name" .) | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels that select the pods of this release. */}}
{{- define "replicator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "replicator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels and annotations of an object: (dict "root" $ "component" … "labels" … "annotations" …); the chart's own labels take precedence. */}}
{{- define "replicator.metadata" -}}
{{- $component := ternary (dict "app.kubernetes.io/component" .component) (dict) (hasKey . "component") }}
labels:
  {{- toYaml (merge (dict) $component (fromYaml (include "replicator.ownLabels" .root)) (default (dict) .labels) .root.Values.commonLabels) | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels and annotations of pods: (dict "root" $ "component" … "own" …), own are the values of the component; selector labels take precedence. */}}
{{- define "replicator.podMetadata" -}}
{{- $found := merge (dict "app.kubernetes.io/component" .component) (fromYaml (include "replicator.selectorLabels" .root)) }}
{{- $values := .root.Values }}
labels:
  {{- toYaml (merge $found (default (dict) .own.podLabels) $values.podLabels (fromYaml (include "replicator.ownLabels" .root)) $values.commonLabels) | nindent 2 }}
annotations:
  {{- include "replicator.checksums" .root | nindent 2 }}
  {{- with merge (dict) (default (dict) .own.podAnnotations) $values.podAnnotations $values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "replicator.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "replicator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "replicator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "replicator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "replicator.image" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: build the image (make image), push it to your registry, and set its name here, e.g. registry.example.com/tools/replicator" }}
{{- end -}}
{{- $registry := .Values.image.registry }}
{{- if not (or $registry (regexMatch "^([^/]*[.:][^/]*|localhost)/" .Values.image.repository)) }}
{{- $registry = (.Values.global).imageRegistry }}
{{- end }}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}
{{- .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{/* Secrets for the image's registry, each as an object or a name. */}}
{{- define "replicator.pullSecrets" -}}
{{- with concat (default (list) (.Values.global).imagePullSecrets) .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "replicator.rules" -}}
{{- default (printf "%s-rules" (include "replicator.fullname" .)) .Values.existingRulesConfigMap }}
{{- end }}

{{- define "replicator.secret" -}}
{{- default (include "replicator.fullname" .) .Values.existingSecret }}
{{- end }}

{{/* A change of settings, rules or secrets replaces the pods. */}}
{{- define "replicator.checksums" -}}
checksum/settings: {{ toYaml .Values.settings | sha256sum }}
checksum/rules: {{ toYaml (list .Values.rules .Values.rulesFiles) | sha256sum }}
checksum/secrets: {{ toYaml .Values.secrets | sha256sum }}
{{- end }}

{{/* Common parts of all pods. */}}
{{- define "replicator.pod" -}}
serviceAccountName: {{ include "replicator.serviceAccountName" . }}
automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
# A Service named replicator would set variables in the pod that look like settings.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
{{- include "replicator.pullSecrets" . }}
{{- range $name := list "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" "dnsConfig" "hostAliases" "initContainers" }}
{{- with get $.Values $name }}
{{ toYaml (dict $name .) }}
{{- end }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: rules
    {{- if .Values.existingRulesSecret }}
    secret:
      secretName: {{ .Values.existingRulesSecret }}
      defaultMode: 0440
    {{- else }}
    configMap:
      name: {{ include "replicator.rules" . }}
    {{- end }}
  - name: secrets
    secret:
      secretName: {{ include "replicator.secret" . }}
      defaultMode: 0440
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  {{- if and (eq .Values.queue.mode "embedded") .Values.queue.persistence.existingClaim }}
  - name: state
    persistentVolumeClaim:
      claimName: {{ .Values.queue.persistence.existingClaim }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Common parts of all containers. */}}
{{- define "replicator.container" -}}
name: replicator
image: {{ include "replicator.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
envFrom:
  - configMapRef:
      name: {{ include "replicator.fullname" . }}-settings
  {{- with .Values.envFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "replicator.mounts" -}}
- name: rules
  mountPath: /etc/replicator
  readOnly: true
- name: secrets
  mountPath: /etc/replicator-secrets
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Probes at a port: (dict "root" $ "port" …). A restart does not repair the queue, so liveness checks only /healthz. */}}
{{- define "replicator.probes" -}}
{{- range $name, $path := dict "startupProbe" "/healthz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
{{ $name }}:
  httpGet:
    path: {{ $path }}
    port: {{ $.port }}
  {{- with get $.root.Values $name }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Placement of pods: (dict "root" $ "own" …), own are the values of the component, which take precedence. */}}
{{- define "replicator.placement" -}}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with default (get $.root.Values $name) (get $.own $name) }}
{{ toYaml (dict $name .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The type of the Service. */}}
{{- define "replicator.serviceType" -}}
{{- if and (gt (int .Values.service.nodePort) 0) (eq .Values.service.type "ClusterIP") -}}
{{- fail "service.nodePort needs service.type NodePort or LoadBalancer" }}
{{- end -}}
{{- .Values.service.type }}
{{- end }}

{{/* The senders from outside of the cluster as YAML, or nothing: everyone. Only with Local do they keep their addresses. */}}
{{- define "replicator.external" -}}
{{- with .Values.networkPolicy.external }}
{{- toYaml . }}
{{- else }}
{{- if and (eq .Values.service.type "LoadBalancer") (eq .Values.service.externalTrafficPolicy "Local") }}
{{- range .Values.service.loadBalancerSourceRanges }}
- ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
