package addon

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:embed crd.yaml
var crd []byte

// What others need to know of the API.
const (
	// Group and version of the kind Addon.
	Group   = "knarr.io"
	Version = "v1"
	// Namespace is where all Addons are.
	Namespace = "kube-system"
	// Label is on every object that was made from a manifest. Its value is the name of the Addon.
	Label = "knarr.io/addon"
	// OnDemand is an annotation that manifests give to objects which are there only while [Controller.Switch] is on.
	OnDemand = "knarr.io/on-demand"
	// Keep is an annotation of objects that stay when their file goes: definitions of kinds, with which all objects of
	// these kinds would go.
	Keep = "knarr.io/keep"
	// fieldManager owns the fields that the manifests name.
	fieldManager = "knarr"
)

// State is what can be said of an Addon in a word.
type State string

// The states.
const (
	Applying State = "Applying" // under way
	Ready    State = "Ready"    // the cluster is as the file says
	Waiting  State = "Waiting"  // for a kind that the API does not know yet
	Failed   State = "Failed"   // see the problems
	Conflict State = "Conflict" // another file has the name
	Skipped  State = "Skipped"  // left alone because of a .skip file
	Removing State = "Removing" // the file is gone
)

// addon is the API object.
type addon struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   spec   `json:"spec"`
	Status status `json:"status"`
}

// spec is what is intended. crd.yaml says what the fields mean.
type spec struct {
	Source   string   `json:"source,omitempty"`
	Server   string   `json:"server,omitempty"`
	Checksum string   `json:"checksum,omitempty"`
	Kinds    []string `json:"kinds,omitempty"`
}

func (s spec) equal(o spec) bool {
	return s.Source == o.Source && s.Server == o.Server && s.Checksum == o.Checksum && slices.Equal(s.Kinds, o.Kinds)
}

// status is what came of it.
type status struct {
	State    State     `json:"state,omitempty"`
	Objects  string    `json:"objects,omitempty"`
	Message  string    `json:"message,omitempty"`
	Checksum string    `json:"checksum,omitempty"`
	Problems []problem `json:"problems,omitempty"`
}

func (s status) equal(o status) bool {
	return s.State == o.State && s.Objects == o.Objects && s.Message == o.Message && s.Checksum == o.Checksum && slices.EqualFunc(s.Problems, o.Problems, problem.same)
}

// problem is one thing that is wrong, and where.
type problem struct {
	File     string `json:"file"`
	Document int    `json:"document,omitempty"`
	Line     int    `json:"line,omitempty"`
	Object   string `json:"object,omitempty"`
	Message  string `json:"message"`

	// missing is the kind that the API does not know.
	missing schema.GroupKind
	// final is set for what only a change of a file can mend.
	final bool
}

// same tells whether two problems read the same.
func (p problem) same(o problem) bool {
	p.missing, p.final, o.missing, o.final = schema.GroupKind{}, false, schema.GroupKind{}, false
	return p == o
}

// Error is the problem in one line: "web.yaml document 2, line 14: Deployment default/web: ...".
func (p problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Document > 0 {
		fmt.Fprintf(&b, " document %d", p.Document)
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, ", line %d", p.Line)
	}
	if p.Object != "" {
		b.WriteString(": " + p.Object)
	}
	return b.String() + ": " + p.Message
}

// kindName writes a kind as spec.kinds has it.
func kindName(k schema.GroupVersionKind) string { return k.GroupVersion().String() + "/" + k.Kind }

// parseKind reads an item of spec.kinds. What is not one has no kind.
func parseKind(text string) schema.GroupVersionKind {
	at := strings.LastIndex(text, "/")
	if at < 0 {
		return schema.GroupVersionKind{}
	}
	gv, err := schema.ParseGroupVersion(text[:at])
	if err != nil {
		return schema.GroupVersionKind{}
	}
	return gv.WithKind(text[at+1:])
}
