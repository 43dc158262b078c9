{{- define "forebay.image" -}}
{{- $values := .root.Values.image -}}
image: {{ printf "%sforebay-%s:%s" (ternary "" (printf "%s/" $values.registry) (empty $values.registry)) .name (default .root.Chart.AppVersion $values.tag) | quote }}
imagePullPolicy: {{ $values.pullPolicy }}
{{- end -}}

{{- define "forebay.labels" -}}
app.kubernetes.io/name: forebay
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "forebay.zookeeper" -}}
{{- if .Values.zookeeper.hosts -}}
{{- .Values.zookeeper.hosts -}}
{{- else if .Values.zookeeper.bundled -}}
{{- .Release.Name }}-zookeeper:2181
{{- else -}}
{{- fail "zookeeper: give hosts, or set bundled" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.env" -}}
- {name: FOREBAY_REGISTRY, value: {{ printf "zookeeper://%s%s" (include "forebay.zookeeper" .root) .root.Values.zookeeper.chroot | quote }}}
- {name: FOREBAY_CLUSTER_ID, value: {{ .root.Values.clusterId | quote }}}
- {name: FOREBAY_HOST, value: 0.0.0.0}
- {name: FOREBAY_TLS_CA, value: /etc/forebay/tls/ca.pem}
- {name: FOREBAY_TLS_CERT, value: /etc/forebay/tls/{{ .name }}.pem}
- {name: FOREBAY_TLS_KEY, value: /etc/forebay/tls/{{ .name }}.pem}
{{- with .root.Values.telemetry.otlpEndpoint }}
- {name: FOREBAY_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: FOREBAY_TRACE_RATIO, value: {{ $.root.Values.telemetry.traceRatio | quote }}}
{{- end }}
{{- if ne .name "gateway" }}
- {name: FOREBAY_CLUSTER_KEY_FILE, value: /etc/forebay/keys/cluster.key}
- {name: FOREBAY_ADMIN_TOKEN_FILE, value: /etc/forebay/keys/admin.token}
- {name: FOREBAY_UFS_ROOTS, value: {{ toJson .root.Values.ufsRoots | quote }}}
{{- if .root.Values.secrets.aws }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /etc/forebay/aws/aws}
{{- end }}
{{- end }}
{{- end -}}

{{- define "forebay.secretMounts" -}}
- {name: tls, mountPath: /etc/forebay/tls, readOnly: true}
{{- if ne .name "gateway" }}
- {name: keys, mountPath: /etc/forebay/keys, readOnly: true}
{{- if .root.Values.secrets.aws }}
- {name: aws, mountPath: /etc/forebay/aws, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "forebay.secretVolumes" -}}
- name: tls
  secret:
    secretName: {{ .root.Values.secrets.tls }}
    items: [{key: ca.pem, path: ca.pem}, {key: {{ .name }}.pem, path: {{ .name }}.pem}]
{{- if ne .name "gateway" }}
- name: keys
  secret: {secretName: {{ .root.Values.secrets.keys }}}
{{- if .root.Values.secrets.aws }}
- name: aws
  secret: {secretName: {{ .root.Values.secrets.aws }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "forebay.probes" -}}
startupProbe: {exec: {command: [forebay-ready, /run/forebay/http.sock]}, periodSeconds: 2, timeoutSeconds: 4, failureThreshold: 60}
readinessProbe: {exec: {command: [forebay-ready, /run/forebay/http.sock]}, periodSeconds: 5, timeoutSeconds: 4}
livenessProbe: {exec: {command: [test, -S, /run/forebay/http.sock]}, periodSeconds: 20, timeoutSeconds: 4}
{{- end -}}

{{- define "forebay.safe" -}}
securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, runAsNonRoot: true, runAsUser: 10001}
{{- end -}}
