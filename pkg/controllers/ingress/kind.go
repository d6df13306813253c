package ingress

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Who the classes that are Traefik's say that they belong to (traefik pkg/provider/kubernetes/ingress/kubernetes.go:38
// and gateway/kubernetes.go).
const (
	ingressController = "traefik.io/ingress-controller"
	gatewayController = "traefik.io/gateway-controller"
)

// unclassed is the class of an Ingress that names none and is Traefik's nonetheless. No class can be called so.
const unclassed = "(unclassed)"

// kind is one kind of objects that decide whether Traefik is wanted.
type kind struct {
	name     string // as people say it
	resource schema.GroupVersionResource
	// custom kinds are there when their definition is.
	custom bool
	// field is what of an object decides: the name of its class or, of a class, its controller; nil: that it is there.
	field []string
	// classes is the kind that field names an object of, and controller who that belongs to if Traefik is wanted.
	classes, controller string
	// any object of the kind wants Traefik.
	any bool
}

// kinds are in the order in which Traefik is said to be wanted by them.
var kinds = []kind{
	{name: "Ingress", resource: schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
		field: []string{"spec", "ingressClassName"}, classes: "IngressClass", controller: ingressController},
	{name: "IngressClass", resource: schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingressclasses"},
		field: []string{"spec", "controller"}},
	{name: "Gateway", resource: schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}, custom: true,
		field: []string{"spec", "gatewayClassName"}, classes: "GatewayClass", controller: gatewayController},
	{name: "GatewayClass", resource: schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gatewayclasses"}, custom: true,
		field: []string{"spec", "controllerName"}},
	{name: "IngressRoute", resource: traefik("ingressroutes"), custom: true, any: true},
	{name: "IngressRouteTCP", resource: traefik("ingressroutetcps"), custom: true, any: true},
	{name: "IngressRouteUDP", resource: traefik("ingressrouteudps"), custom: true, any: true},
}

// definitions are what says which custom kinds there are.
var definitions = kind{name: "CustomResourceDefinition",
	resource: schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}}

func traefik(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "traefik.io", Version: "v1alpha1", Resource: resource}
}

// wants tells whether an object of the kind, of which class is known, wants Traefik.
func (k kind) wants(class string, classes map[string]string) bool {
	return k.any || class == unclassed || k.controller != "" && classes[class] == k.controller
}

// classOf returns what reads the field of a kind that decides.
func classOf(name string) func(obj any) string {
	for _, k := range kinds {
		if k.name == name && k.field != nil {
			return k.class
		}
	}
	return func(any) string { return "" }
}

// class follows Traefik in that an Ingress without a class is its own unless an annotation says otherwise
// (traefik pkg/provider/kubernetes/ingress/kubernetes.go:547).
func (k kind) class(obj any) string {
	o, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	// Of another type than a string it would not have been stored.
	class, found, _ := unstructured.NestedString(o.Object, k.field...)
	if found || k.name != "Ingress" {
		return class
	}
	switch annotated := o.GetAnnotations()["kubernetes.io/ingress.class"]; annotated {
	case "", "traefik":
		return unclassed
	default:
		return ""
	}
}
