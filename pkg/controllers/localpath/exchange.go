package localpath

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
)

// Controller and nodes talk in two annotations of each Node: what a server wants done, and what the node has done. Nothing
// else would do: a node may write to no object but its own Node, and so no node can speak for another. Both are empty but
// for the moment in which something is under way.
const (
	AnnotationOrders  = "knarr.io/local-storage-orders"
	AnnotationAnswers = "knarr.io/local-storage-answers"
)

// Op is what is to be done to a volume.
type Op string

const (
	// Create makes the directory, or finds it made.
	Create Op = "create"
	// Resize changes what it may hold.
	Resize Op = "resize"
	// Delete removes it with all that is in it, or finds it removed.
	Delete Op = "delete"
)

// Order is something to be done to one volume. Orders may be carried out more than once.
type Order struct {
	Op Op `json:"op"`
	// Bytes is what the volume is to hold.
	Bytes int64 `json:"bytes,omitempty"`
}

// Answer is what became of an order.
type Answer struct {
	Order
	// Error tells why it is not done yet. The node tries again.
	Error string `json:"error,omitempty"`
	// Path is where the volume is.
	Path string `json:"path,omitempty"`
	// Unenforced tells why the size is not enforced.
	Unenforced string `json:"unenforced,omitempty"`
}

// done tells whether a is the outcome of order.
func (a Answer) done(order Order) bool { return a.Order == order && a.Error == "" }

// parse reads one of the annotations; what cannot be read counts as none.
func parse[T any](n *corev1.Node, annotation string) map[string]T {
	found := make(map[string]T)
	if text := n.Annotations[annotation]; text != "" && json.Unmarshal([]byte(text), &found) != nil {
		return make(map[string]T)
	}
	return found
}

// render is what belongs into an annotation, "" for nothing. Keys of a map are sorted, so equal maps are equal texts.
func render[T any](entries map[string]T) string {
	if len(entries) == 0 {
		return ""
	}
	b, err := json.Marshal(entries)
	if err != nil {
		panic(err) // numbers and strings
	}
	return string(b)
}

// annotate makes the merge patch that sets or, with "", removes an annotation.
func annotate(annotation, text string) []byte {
	var value *string
	if text != "" {
		value = &text
	}
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotation: value}}})
	if err != nil {
		panic(err) // strings
	}
	return b
}
