{{/*
A Deployment. Arguments: root, the chart's own scope; name; component, stable or canary; replicas, or nothing
where the autoscaler decides; image; archive.
*/}}
{{- define "catsdogs.deployment" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  labels:
    {{- include "catsdogs.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- if .replicas }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels:
      {{- include "catsdogs.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template:
    metadata:
      labels:
        {{- include "catsdogs.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # Other settings are other pods.
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
      # After SIGTERM: 21 s for the gateway, 20 s for TorchServe, and some.
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
          securityContext:
            {{- include "catsdogs.locked" . | nindent 12 }}
          resources:
            requests: {cpu: 100m, memory: 64Mi}
            limits: {cpu: 500m, memory: 128Mi}
          volumeMounts:
            - {name: archive, mountPath: /archive}
      {{- end }}
      containers:
        # It gets SIGTERM when the gateway does, and waits until no client is left there.
        - name: torchserve
          image: {{ .image | quote }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args: [--only, torchserve]
          envFrom:
            - configMapRef: {name: {{ include "catsdogs.fullname" $root }}}
          # It listens on loopback, where no probe of the kubelet's own gets. Process 1 ends by itself when
          # workers are dead; this is for the day when process 1 hangs.
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
            {{- include "catsdogs.locked" . | nindent 12 }}
          resources:
            {{- toYaml $values.torchserve.resources | nindent 12 }}
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
          # Whether the gateway lives, whatever TorchServe does, and whether a photo would be answered: a picture is
          # classified.
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
            timeoutSeconds: 5 # it takes 2 s at most, with a full queue as well
            failureThreshold: 3
          lifecycle: *leaving
          securityContext:
            {{- include "catsdogs.locked" . | nindent 12 }}
          resources:
            {{- toYaml $values.gateway.resources | nindent 12 }}
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
        # The gateway lets in 256 uploads of 12 MiB and 1,500 small ones at once, 3.1 GiB; TorchServe gets their paths.
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
              {{- include "catsdogs.selector" $root | nindent 14 }}
        {{- end }}
        {{- end }}
{{- end }}

{{/* The securityContext of every container. */}}
{{- define "catsdogs.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Names, or objects with a name, as other charts want them. */}}
{{- define "catsdogs.pullSecrets" -}}
{{- range . }}
- {{ kindIs "string" . | ternary (dict "name" .) . | toJson }}
{{- end }}
{{- end }}
