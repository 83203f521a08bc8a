{{/* Names and labels. */}}

{{- define "catsdogs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters, so that "-canary" and "-metrics" fit behind it; a Service's begins with a letter. */}}
{{- define "catsdogs.fullname" -}}
{{- $name := include "catsdogs.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if regexMatch "^[0-9]" .Release.Name }}
{{- printf "%s-%s" $name .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "catsdogs.selector" -}}
app.kubernetes.io/name: {{ include "catsdogs.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* A label takes no "+", with which a version's build begins. */}}
{{- define "catsdogs.chart" -}}
{{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "catsdogs.labels" -}}
{{ include "catsdogs.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ include "catsdogs.chart" . | quote }}
{{- end }}

{{- define "catsdogs.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* By a tag or a digest of its own, or the image of the others. */}}
{{- define "catsdogs.canaryImage" -}}
{{- $canary := .Values.canary }}
{{- if or $canary.tag $canary.digest -}}
{{ .Values.image.repository }}{{ with $canary.tag }}:{{ . }}{{ end }}{{ with $canary.digest }}@{{ . }}{{ end }}
{{- else -}}
{{ include "catsdogs.image" . }}
{{- end }}
{{- end }}
