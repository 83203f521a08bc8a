{{/*
The groups of rules in monitoring/, for this release only. All series that they read and write have the labels
namespace and service, by which the Prometheus operator distinguishes targets.
*/}}
{{- define "catsdogs.rules" -}}
{{- $service := printf "%s-metrics" (include "catsdogs.fullname" .) }}
{{- $own := printf "namespace=%q, service=%q" .Release.Namespace $service }}
{{- $series := `\b((?:gateway|photo|predictions?|torchserve)[_:][\w:]+|up)` }}
{{- $groups := list }}
{{- range ternary (list "slo_rules" "drift_rules" "alerts") (list "slo_rules" "alerts") .Values.prometheusRule.drift }}
{{- range get (printf "files/%s.yml" . | $.Files.Get | fromYaml) "groups" }}
{{- if or $.Values.prometheusRule.drift (ne .name "drift") }}
{{- $groups = append $groups . }}
{{- end }}
{{- range $rule := .rules }}
{{- $expr := regexReplaceAll (printf `%s\{` $series) .expr "${1}{OWN, " }}
{{- $expr = regexReplaceAll (printf `%s([^\w:{]|$)` $series) $expr "${1}{OWN}${2}" }}
{{- $_ := set $rule "expr" (replace "OWN" $own $expr) }}
{{- $_ := set $rule "labels" (merge (dict "namespace" $.Release.Namespace "service" $service) (default dict .labels)) }}
{{- with .annotations }}
{{- $_ := set . "runbook_url" (replace "monitoring/RUNBOOK.md" $.Values.prometheusRule.runbookUrl .runbook_url) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $groups }}
{{- end }}
