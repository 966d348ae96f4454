{{/* Labels of every object of the release. Call with (list . "component"). */}}
{{- define "processhub.labels" -}}
{{- $root := index . 0 -}}
{{ include "processhub.selector" . }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels that select the pods of one component; they never change, as a Deployment's selector can't. */}}
{{- define "processhub.selector" -}}
app.kubernetes.io/name: processhub
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "processhub.image" -}}
{{ .Values.image.repository }}
{{- with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Linux nodes alone, and what nodeSelector says beside that. */}}
{{- define "processhub.nodes" -}}
{{ toYaml (merge (dict) (.Values.nodeSelector | default dict) (dict "kubernetes.io/os" "linux")) }}
{{- end }}

{{- define "processhub.account" -}}
{{ .Values.serviceAccount.name | default "processhub-operator" }}
{{- end }}

{{/* The operator's user name, as requests carry it. */}}
{{- define "processhub.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "processhub.account" . }}
{{- end }}

{{/* How a ServiceMonitor or PodMonitor scrapes. Metrics of hubs have a label namespace of their own, which stays. */}}
{{- define "processhub.scrape" -}}
honorLabels: true
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The Secret that cert-manager writes the operator's authority into. */}}
{{- define "processhub.issued" -}}
processhub-ca-issued
{{- end }}

{{- /* The operator's settings of TLS. Argument: the value tls. */}}
{{- define "processhub.tls" -}}
{{- $settings := dict "secret" (empty (.issuerRef).name | ternary "" (include "processhub.issued" .)) -}}
{{- with .certificateHours }}{{ $_ := set $settings "certificateSeconds" (mul 3600 .) }}{{ end -}}
{{- with .caDays }}{{ $_ := set $settings "caSeconds" (mul 86400 .) }}{{ end -}}
{{- toJson $settings -}}
{{- end }}

{{/* The annotation of all that the members of kept Hubs need to run on after an uninstall. */}}
{{- define "processhub.kept" -}}
{{- if or .Values.crds.keep (not .Values.crds.enabled) -}}
annotations:
  helm.sh/resource-policy: keep
{{- end }}
{{- end }}
