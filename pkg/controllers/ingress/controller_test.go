package ingress

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/rest"
)

// object makes one of a kind, with a field at path set.
func object(kindName, key string, path []string, value string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetKind(kindName)
	o.SetNamespace("default")
	o.SetName(key)
	if value != "" {
		if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
			panic(err)
		}
	}
	return o
}

func annotated(o *unstructured.Unstructured, class string) *unstructured.Unstructured {
	o.SetAnnotations(map[string]string{"kubernetes.io/ingress.class": class})
	return o
}

func kindOf(t *testing.T, name string) kind {
	t.Helper()
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		t.Fatalf("no kind %s", name)
	}
	return kinds[i]
}

// TestWhoIsWanted has Traefik wanted by its own objects and by nobody else's.
func TestWhoIsWanted(t *testing.T) {
	ingressClasses := map[string]string{"traefik": ingressController, "mine": ingressController, "nginx": "k8s.io/ingress-nginx"}
	gatewayClasses := map[string]string{"traefik": gatewayController, "cilium": "io.cilium/gateway-controller"}
	class := kindOf(t, "Ingress").field
	for name, test := range map[string]struct {
		kind    string
		object  *unstructured.Unstructured
		classes map[string]string
		want    bool
	}{
		"Ingress of the class":                 {"Ingress", object("Ingress", "a", class, "traefik"), ingressClasses, true},
		"Ingress of another class of Traefik":  {"Ingress", object("Ingress", "a", class, "mine"), ingressClasses, true},
		"Ingress of somebody else":             {"Ingress", object("Ingress", "a", class, "nginx"), ingressClasses, false},
		"Ingress of a class that is not there": {"Ingress", object("Ingress", "a", class, "none"), ingressClasses, false},
		"Ingress without a class":              {"Ingress", object("Ingress", "a", class, ""), nil, true},
		"Ingress annotated for Traefik":        {"Ingress", annotated(object("Ingress", "a", class, ""), "traefik"), nil, true},
		"Ingress annotated for somebody else":  {"Ingress", annotated(object("Ingress", "a", class, ""), "nginx"), nil, false},
		"class counts more than annotation":    {"Ingress", annotated(object("Ingress", "a", class, "traefik"), "nginx"), ingressClasses, true},
		"IngressClass alone":                   {"IngressClass", object("IngressClass", "traefik", []string{"spec", "controller"}, ingressController), nil, false},
		"Gateway of the class":                 {"Gateway", object("Gateway", "a", []string{"spec", "gatewayClassName"}, "traefik"), gatewayClasses, true},
		"Gateway of somebody else":             {"Gateway", object("Gateway", "a", []string{"spec", "gatewayClassName"}, "cilium"), gatewayClasses, false},
		"GatewayClass alone":                   {"GatewayClass", object("GatewayClass", "traefik", []string{"spec", "controllerName"}, gatewayController), nil, false},
		"IngressRoute":                         {"IngressRoute", object("IngressRoute", "a", nil, ""), nil, true},
		"IngressRouteTCP":                      {"IngressRouteTCP", object("IngressRouteTCP", "a", nil, ""), nil, true},
		"IngressRouteUDP":                      {"IngressRouteUDP", object("IngressRouteUDP", "a", nil, ""), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDemand()
			k := kindOf(t, test.kind)
			d.seen[k.classes] = test.classes
			s := d.store(k.name)
			if err := s.Add(test.object); err != nil {
				t.Fatal(err)
			}
			if by, _ := d.wanted(); (by != "") != test.want {
				t.Errorf("wanted by %q, want somebody: %v", by, test.want)
			}
			if err := s.Delete(test.object); err != nil {
				t.Fatal(err)
			}
			if by, _ := d.wanted(); by != "" {
				t.Errorf("wanted by %q after it was deleted", by)
			}
		})
	}
}

// turns records what the controller says.
type turns struct {
	mu    sync.Mutex
	said  []bool
	since time.Time
	at    []time.Duration
}

func (t *turns) turn(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said, t.at = append(t.said, on), append(t.at, time.Since(t.since).Round(time.Second))
}

func (t *turns) want(tb testing.TB, said ...bool) {
	tb.Helper()
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Equal(t.said, said) {
		tb.Errorf("Traefik was turned %v, want %v", t.said, said)
	}
}

// TestDecide goes through a day of Traefik's: off at first, on at once, off after a rest, and not off in between.
func TestDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		said := &turns{since: time.Now()}
		c := New(Config{RestAfter: 5 * time.Minute}, API{}, said.turn, slog.New(slog.DiscardHandler))
		d := newDemand()
		ended := make(chan error, 1)
		go func() { ended <- c.decide(ctx, d) }()

		for kind := range d.unknown {
			said.want(t)
			d.forget(kind)
		}
		said.want(t, false)

		route := object("IngressRoute", "a", nil, "")
		s := d.store("IngressRoute")
		add := func(o *unstructured.Unstructured) { must(t, s.Add(o)) }
		remove := func(o *unstructured.Unstructured) { must(t, s.Delete(o)) }
		add(route)
		said.want(t, false, true)

		remove(route)
		time.Sleep(4 * time.Minute) // synctest's time
		said.want(t, false, true)
		add(route) // again in time: it never went
		remove(object("IngressRoute", "b", nil, ""))
		time.Sleep(time.Hour)
		said.want(t, false, true)

		remove(route)
		time.Sleep(5*time.Minute + time.Second)
		said.want(t, false, true, false)

		cancel()
		if err := <-ended; err != nil {
			t.Errorf("decide ended with %v", err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAlwaysOn needs no client at all.
func TestAlwaysOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		said := &turns{since: time.Now()}
		c := New(Config{AlwaysOn: true}, API{Config: func() *rest.Config { panic("asked for a client") }}, said.turn, slog.New(slog.DiscardHandler))
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx, func() {}) }()
		said.want(t, true)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v", err)
		}
		said.want(t, true)
	})
}

// TestRun goes through the clients: custom kinds are watched while their definition is there.
func TestRun(t *testing.T) {
	scheme := runtime.NewScheme()
	must(t, metav1.AddMetaToScheme(scheme))
	lists := make(map[schema.GroupVersionResource]string)
	for _, k := range kinds {
		lists[k.resource] = k.name + "List"
	}
	whole := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists)
	metaScheme := metadatafake.NewTestScheme()
	must(t, metav1.AddMetaToScheme(metaScheme))
	meta := metadatafake.NewSimpleMetadataClient(metaScheme)

	said := make(chan bool, 10)
	c := New(Config{RestAfter: time.Millisecond}, API{Config: func() *rest.Config { return nil }}, func(on bool) { said <- on }, slog.New(slog.DiscardHandler))
	c.clients = func(*rest.Config) (clients, error) { return clients{whole, meta}, nil }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- c.Run(ctx, func() { close(ready) }) }()
	<-ready
	expect := func(want bool, when string) {
		t.Helper()
		select {
		case on := <-said:
			if on != want {
				t.Fatalf("%s Traefik was turned %v, want %v", when, on, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s Traefik was not turned %v", when, want)
		}
	}
	expect(false, "at first")

	classes := whole.Resource(kindOf(t, "IngressClass").resource)
	create(t, func() error {
		o := object("IngressClass", "traefik", []string{"spec", "controller"}, ingressController)
		o.SetNamespace("")
		o.SetAPIVersion("networking.k8s.io/v1")
		_, err := classes.Create(ctx, o, metav1.CreateOptions{})
		return err
	})
	ingresses := whole.Resource(kindOf(t, "Ingress").resource).Namespace("default")
	o := object("Ingress", "a", []string{"spec", "ingressClassName"}, "traefik")
	o.SetAPIVersion("networking.k8s.io/v1")
	create(t, func() error { _, err := ingresses.Create(ctx, o, metav1.CreateOptions{}); return err })
	expect(true, "with an Ingress")
	must(t, ingresses.Delete(ctx, "a", metav1.DeleteOptions{}))
	expect(false, "without it")

	routes := meta.Resource(traefik("ingressroutes")).Namespace("default").(metadatafake.MetadataClient)
	_, err := routes.CreateFake(partial("traefik.io/v1alpha1", "IngressRoute", "default", "b"), metav1.CreateOptions{})
	must(t, err)
	defined := meta.Resource(definitions.resource).(metadatafake.MetadataClient)
	_, err = defined.CreateFake(partial("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "ingressroutes.traefik.io"), metav1.CreateOptions{})
	must(t, err)
	expect(true, "with the definition of IngressRoute, of which there is one")
	must(t, meta.Resource(definitions.resource).Delete(ctx, "ingressroutes.traefik.io", metav1.DeleteOptions{}))
	expect(false, "without the definition")

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func partial(version, kind, namespace, name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: version, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
	}
}

func create(t *testing.T, fn func() error) {
	t.Helper()
	must(t, fn())
}
