{{/* The resources of a container. Arguments: name of the parent value; resources. */}}
{{- define "catsdogs.resources" -}}
{{- range $what, $request := .resources.requests }}
{{- $limit := get $.resources.limits $what | default $request }}
{{- if gt (include "catsdogs.amount" $request | float64) (include "catsdogs.amount" $limit | float64) }}
{{- printf "%s.resources.requests.%s is %v, more than limits.%s, %v; lower the request or raise the limit" $.name $what $request $what $limit | fail }}
{{- end }}
{{- end }}
{{- toYaml .resources }}
{{- end }}

{{/* A quantity as a number: 500m is 0.5, 1Gi is 1073741824. */}}
{{- define "catsdogs.amount" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexFind "[A-Za-z]*$" (toString .) }}
{{- mulf (trimSuffix $unit (toString .)) (get $units $unit) }}
{{- end }}
