// Package ext stands in for the module that Traefik keeps inside its own source
// tree, where a dependent cannot reach it: fields that other products of its
// makers add to a router and to the HTTP configuration. There are none.
package ext

// HTTP adds nothing to the HTTP configuration.
type HTTP struct{}

// DeepCopyInto copies nothing.
func (in *HTTP) DeepCopyInto(out *HTTP) { *out = *in }

// Router adds nothing to a router.
type Router struct{}

// DeepCopyInto copies nothing.
func (in *Router) DeepCopyInto(out *Router) { *out = *in }
