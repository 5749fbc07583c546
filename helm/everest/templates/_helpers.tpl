{{- define "everest.labels" -}}
app.kubernetes.io/name: everest-platform
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: everest
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "everest.selector" -}}
app.kubernetes.io/name: everest-platform
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* What all pods have; the restricted Pod Security Standard asks for most of it. */ -}}
{{- define "everest.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.userId }}
  runAsGroup: {{ .Values.userId }}
  fsGroup: {{ .Values.userId }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "everest.container" -}}
imagePullPolicy: {{ .Values.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "everest.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "everest.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "everest.env" -}}
- {name: HOME, value: /tmp}
- {name: PYTHONUNBUFFERED, value: "1"}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "everest.databaseSecret" -}}
{{- if .Values.postgresql.enabled -}}
{{ .Values.postgresql.secret | default (printf "%s-postgresql" .Release.Name) }}
{{- else -}}
{{ required "postgresql.enabled=false: postgresql.external.secret must name a Secret with MLFLOW_URI, STUDIES_URI and PGPASSWORD" .Values.postgresql.external.secret }}
{{- end -}}
{{- end }}

{{- define "everest.pgpassword" -}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "everest.databaseSecret" . }}, key: PGPASSWORD}}
{{- end }}

{{- /* The address of a database (mlflow, studies or auth) as the variable NAME. */ -}}
{{- define "everest.uri" -}}
- name: {{ .name }}
{{- if .root.Values.postgresql.enabled }}
  value: postgresql://everest@{{ .root.Release.Name }}-postgresql:5432/{{ .database }}
{{- else }}
  valueFrom: {secretKeyRef: {name: {{ include "everest.databaseSecret" .root }}, key: {{ upper .database }}_URI}}
{{- end }}
{{- end }}

{{- define "everest.s3Secret" -}}
{{- if .Values.s3.secret -}}
{{ .Values.s3.secret }}
{{- else if .Values.s3.server.enabled -}}
{{ .Release.Name }}-s3
{{- else -}}
{{ fail "s3.secret must name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or s3.server.enabled=true, for trying out)" }}
{{- end -}}
{{- end }}

{{- define "everest.s3Endpoint" -}}
{{- if and .Values.s3.endpoint .Values.s3.server.enabled }}{{ fail "s3.endpoint and s3.server.enabled: which one? Unset one of them" }}{{ end -}}
{{- if .Values.s3.endpoint }}{{ .Values.s3.endpoint }}{{ else if .Values.s3.server.enabled }}http://{{ .Release.Name }}-s3:7070{{ end -}}
{{- end }}

{{- /* Of an S3 server outside. */ -}}
{{- define "everest.s3Port" -}}
{{- if .Values.s3.port }}{{ .Values.s3.port }}{{ else -}}
{{- $address := urlParse (.Values.s3.endpoint | default "https://") -}}
{{- regexFind ":[0-9]+$" $address.host | trimPrefix ":" | default (ternary "80" "443" (eq $address.scheme "http")) -}}
{{- end -}}
{{- end }}

{{- define "everest.s3" -}}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ include "everest.s3Secret" $ }}, key: {{ . }}}}
{{- end }}
- {name: AWS_DEFAULT_REGION, value: {{ .Values.s3.region }}}
{{- with include "everest.s3Endpoint" . }}
- {name: MLFLOW_S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "everest.authSecret" -}}
{{ .Values.mlflow.auth.secret | default (printf "%s-mlflow" .Release.Name) }}
{{- end }}

{{- /* A value that was generated before, or a new one. */ -}}
{{- define "everest.kept" -}}
{{- $known := dig "data" .key "" (lookup "v1" "Secret" .root.Release.Namespace .secret | default dict) -}}
{{ $known | default (randAlphaNum .length | b64enc) }}
{{- end }}

{{- /* A component of this release, as a peer of a NetworkPolicy. */ -}}
{{- define "everest.peer" -}}
podSelector: {matchLabels: {app.kubernetes.io/name: everest-platform, app.kubernetes.io/instance: {{ .name }}, app.kubernetes.io/component: {{ .component }}}}
{{- end }}
