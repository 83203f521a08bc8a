{{/*
A Deployment. Arguments: root, the chart's own scope; name; component, stable or canary; version of the image;
replicas, or nothing if an autoscaler sets them; image; archive.
*/}}
{{- define "catsdogs.deployment" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  labels:
    {{- include "catsdogs.commonLabels" $root | nindent 4 }}
    app.kubernetes.io/version: {{ .version | quote }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- with .replicas }}
  replicas: {{ . }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels:
      {{- include "catsdogs.selectorLabels" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template:
    metadata:
      labels:
        {{- include "catsdogs.commonLabels" $root | nindent 8 }}
        app.kubernetes.io/version: {{ .version | quote }}
        app.kubernetes.io/component: {{ .component }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # Changed settings replace the pods.
        checksum/settings: {{ toYaml $values.settings | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "catsdogs.fullname" $root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $values.imagePullSecrets }}
      imagePullSecrets:
        {{- include "catsdogs.pullSecrets" . | trim | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      # After SIGTERM: 21 s for the gateway, 20 s for TorchServe, and a margin.
      terminationGracePeriodSeconds: {{ max $values.terminationGracePeriodSeconds (add $values.secondsBeforeStop 70) }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        seccompProfile: {type: RuntimeDefault}
      {{- if .archive.url }}
      initContainers:
        - name: archive
          image: {{ .image | quote }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          command: [python, tools/fetch]
          args: [{{ .archive.url | quote }}, {{ .archive.sha256 | quote }}, /archive]
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext:
            {{- include "catsdogs.securityContext" . | nindent 12 }}
          resources:
            requests: {cpu: 100m, memory: 64Mi}
            limits: {cpu: 500m, memory: 128Mi}
          volumeMounts:
            - {name: archive, mountPath: /archive}
      {{- end }}
      containers:
        # Gets SIGTERM together with the gateway, and waits until the gateway has no clients left.
        - name: torchserve
          image: {{ .image | quote }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args: [--only, torchserve]
          terminationMessagePolicy: FallbackToLogsOnError # the pod's status says why it ended
          envFrom:
            - configMapRef: {name: {{ include "catsdogs.fullname" $root }}}
          # TorchServe listens on loopback, which HTTP probes of the kubelet can't reach. Process 1 ends by itself
          # when workers are dead; these probes are for the case that process 1 hangs.
          startupProbe:
            exec: &ping
              command: [python, -c, "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/ping', timeout=8)"]
            periodSeconds: 5
            timeoutSeconds: 10
            failureThreshold: 30
          livenessProbe:
            exec: *ping
            periodSeconds: 30
            timeoutSeconds: 10
            failureThreshold: 3
          lifecycle: &leaving
            preStop:
              exec: {command: [sleep, {{ $values.secondsBeforeStop | quote }}]}
          securityContext:
            {{- include "catsdogs.securityContext" . | nindent 12 }}
          resources:
            {{- include "catsdogs.resources" (dict "name" "torchserve" "resources" $values.torchserve.resources) | nindent 12 }}
          volumeMounts:
            - {name: torchserve-tmp, mountPath: /tmp}
            - {name: uploads, mountPath: /uploads, readOnly: true}
            {{- if or .archive.url .archive.existingClaim }}
            - {name: archive, mountPath: /app/model_store, readOnly: true}
            {{- end }}
        - name: gateway
          image: {{ .image | quote }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args: [--only, gateway]
          terminationMessagePolicy: FallbackToLogsOnError
          envFrom:
            - configMapRef: {name: {{ include "catsdogs.fullname" $root }}}
          {{- if $values.apiKeys.existingSecret }}
          env:
            - name: CATSDOGS_API_KEYS
              valueFrom:
                secretKeyRef: {name: {{ $values.apiKeys.existingSecret | quote }}, key: {{ $values.apiKeys.key | quote }}}
          {{- end }}
          ports:
            - {name: http, containerPort: 8000}
            - {name: metrics, containerPort: 8002}
          # /health: the gateway runs, with or without TorchServe. /ready: it classifies a test picture.
          startupProbe:
            httpGet: &alive {port: metrics, path: /health}
            periodSeconds: 2
            failureThreshold: 30
          livenessProbe:
            httpGet: *alive
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: {port: metrics, path: /ready}
            periodSeconds: 5
            timeoutSeconds: 5 # it takes 2 s at most, even with a full queue
            failureThreshold: 3
          lifecycle: *leaving
          securityContext:
            {{- include "catsdogs.securityContext" . | nindent 12 }}
          resources:
            {{- include "catsdogs.resources" (dict "name" "gateway" "resources" $values.gateway.resources) | nindent 12 }}
          volumeMounts:
            - {name: gateway-tmp, mountPath: /tmp}
            - {name: uploads, mountPath: /uploads}
            {{- if or .archive.url .archive.existingClaim }}
            - {name: archive, mountPath: /app/model_store, readOnly: true}
            {{- end }}
      volumes:
        - name: torchserve-tmp
          emptyDir: {sizeLimit: 1Gi}
        - name: gateway-tmp
          emptyDir: {sizeLimit: 64Mi}
        # The gateway accepts 256 uploads of 12 MiB and 1,500 small ones at a time: 3.1 GiB. TorchServe gets their paths.
        - name: uploads
          emptyDir: {sizeLimit: 4Gi}
        {{- if .archive.url }}
        - name: archive
          emptyDir: {sizeLimit: 1Gi}
        {{- else if .archive.existingClaim }}
        - name: archive
          persistentVolumeClaim: {claimName: {{ .archive.existingClaim | quote }}, readOnly: true}
        {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- with $values.topologySpreadConstraints }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "catsdogs.selectorLabels" $root | nindent 14 }}
        {{- end }}
        {{- end }}
{{- end }}

{{/*
The number of pods in the manifest of the stable Deployment; empty if an autoscaler sets it. When a manifest omits
a number that Helm owns, the server resets it to one pod. So the manifest keeps the cluster's number until something
else has set another one: then Helm no longer owns it. No longer than that, since a rollback restores the number in
its manifest.
*/}}
{{- define "catsdogs.replicaCount" -}}
{{- $replicas := .Values.autoscaling.enabled | ternary nil .Values.replicaCount }}
{{- if not $replicas }}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "catsdogs.fullname" .) }}
{{- range dig "metadata" "managedFields" (list) $live }}
{{- if and (eq .operation "Apply") (hasKey (dig "fieldsV1" "f:spec" dict .) "f:replicas") }}
{{- $replicas = $live.spec.replicas }}
{{- end }}
{{- end }}
{{- end }}
{{- with $replicas }}{{ . }}{{ end }}
{{- end }}

{{/* The securityContext of every container. */}}
{{- define "catsdogs.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Accepts names, or objects with a name as in other charts. */}}
{{- define "catsdogs.pullSecrets" -}}
{{- range . }}
- {{ kindIs "string" . | ternary (dict "name" .) . | toJson }}
{{- end }}
{{- end }}
