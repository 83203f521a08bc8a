{{/* Names and labels. */}}

{{- define "catsdogs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimAll "-" }}
{{- end }}

{{/*
At most 52 characters, which leaves room for "-canary" and "-metrics". A release's name may begin with a digit and
contain dots, a Service's name may not.
*/}}
{{- define "catsdogs.fullname" -}}
{{- $name := include "catsdogs.name" . }}
{{- $release := .Release.Name | replace "." "-" }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimAll "-" }}
{{- else if regexMatch "^[0-9]" $release }}
{{- printf "%s-%s" $name $release | trunc 52 | trimAll "-" }}
{{- else if contains $name $release }}
{{- $release | trunc 52 | trimAll "-" }}
{{- else }}
{{- printf "%s-%s" $release $name | trunc 52 | trimAll "-" }}
{{- end }}
{{- end }}

{{- define "catsdogs.selectorLabels" -}}
app.kubernetes.io/name: {{ include "catsdogs.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels can't contain "+", which a version may have. */}}
{{- define "catsdogs.chart" -}}
{{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "catsdogs.labels" -}}
{{ include "catsdogs.commonLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Without the version, which differs for pods of another image. */}}
{{- define "catsdogs.commonLabels" -}}
{{ include "catsdogs.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ include "catsdogs.chart" . | quote }}
{{- end }}

{{- define "catsdogs.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The version of that image, as a valid label. */}}
{{- define "catsdogs.version" -}}
{{- .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimAll "-_." }}
{{- end }}

{{/* The image with the canary's tag or digest; without them, that of the other pods. */}}
{{- define "catsdogs.canaryImage" -}}
{{- $canary := .Values.canary }}
{{- if or $canary.tag $canary.digest -}}
{{ .Values.image.repository }}{{ with $canary.tag }}:{{ . }}{{ end }}{{ with $canary.digest }}@{{ . }}{{ end }}
{{- else -}}
{{ include "catsdogs.image" . }}
{{- end }}
{{- end }}

{{/* Its tag, or the first characters of its digest. */}}
{{- define "catsdogs.canaryVersion" -}}
{{- $digest := .Values.canary.digest | default "" | trimPrefix "sha256:" | trunc 12 }}
{{- .Values.canary.tag | default $digest | default (include "catsdogs.version" .) | trunc 63 | trimAll "-_." }}
{{- end }}
