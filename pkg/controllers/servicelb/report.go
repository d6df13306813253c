package servicelb

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
)

// AnnotationReport is where a node answers which of the ports that Services want are taken on it, see [Report].
const AnnotationReport = "knarr.io/servicelb"

// Report is what a node tells about itself, as JSON in [AnnotationReport].
type Report struct {
	// Ports are those of the Services of this load balancer, as "TCP/80", with who listens there; "" for nobody. A port
	// that is missing has not been looked at yet.
	Ports map[string]string `json:"ports,omitempty"`
	// Translated are external addresses of the node that none of its links has.
	Translated []string `json:"translated,omitempty"`
}

// readReport is the report of n; what cannot be read counts as none, and the node will write it anew.
func readReport(n *corev1.Node) Report {
	var r Report
	if json.Unmarshal([]byte(n.Annotations[AnnotationReport]), &r) != nil {
		return Report{}
	}
	return r
}

// text is what belongs into the annotation, "" for nothing. Keys of a map are sorted, so equal reports are equal texts.
func (r Report) text() string {
	if len(r.Ports) == 0 {
		return ""
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings only
	}
	return string(b)
}
