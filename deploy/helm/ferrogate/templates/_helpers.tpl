{{/* The labels that the DaemonSet selects its pods by. */}}
{{- define "ferrogate.labels" -}}
app.kubernetes.io/name: ferrogate
{{- end }}

{{- define "ferrogate.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The number behind the last colon of healthzBindAddress, which may be an IPv6 address. */}}
{{- define "ferrogate.healthPort" -}}
{{- $address := .Values.config.healthzBindAddress | default "0.0.0.0:10256" -}}
{{- regexFind "[0-9]+$" $address -}}
{{- end }}

{{- define "ferrogate.probe" -}}
httpGet:
  path: /livez
  port: {{ include "ferrogate.healthPort" . }}
{{- end }}
