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

{{/* The labels of every object. The chart's own labels take precedence. */}}
{{- define "replicator.labels" -}}
{{- toYaml (merge (dict) (fromYaml (include "replicator.ownLabels" .)) .Values.commonLabels) }}
{{- end }}

{{/* The labels of every pod. The selector labels take precedence. */}}
{{- define "replicator.podLabels" -}}
{{- toYaml (merge (dict) (fromYaml (include "replicator.selectorLabels" .)) .Values.podLabels (fromYaml (include "replicator.labels" .))) }}
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
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
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
automountServiceAccountToken: false
# A Service named replicator would set variables in the pod that look like settings.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.initContainers }}
initContainers:
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

{{/* Probes at a named port. A restart does not repair the queue, so liveness checks only /healthz. */}}
{{- define "replicator.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ . }}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* Placement of the pods of a kind. */}}
{{- define "replicator.placement" -}}
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
{{- end }}
