package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/net/websocket"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// front is the ingress controller as a visitor sees it, who lives on another host.
type front struct {
	*env
	visitor *lab.Host
	ca      []byte
}

// browser connects to the node whatever name it asks for.
func (f *front) browser() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.ca)
	return &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: f.dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true},
	}
}

func (f *front) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return f.visitor.DialContext(ctx, network, net.JoinHostPort(f.host.Addr().String(), port))
}

func (f *front) get(url string) (*http.Response, string, error) {
	c := f.browser()
	defer c.CloseIdleConnections()
	r, err := c.Get(url)
	if err != nil {
		return nil, "", err
	}
	text, err := body(r, nil)
	return r, text, err
}

// serves waits until a URL is answered with the text.
func (f *front) serves(url, want string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s to answer %q", url, want), func() error {
		_, text, err := f.get(url)
		if err == nil && text != want {
			err = fmt.Errorf("it answers %q", text)
		}
		return err
	})
}

// refuses waits until a URL is answered with the status.
func (f *front) refuses(url string, status int) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s to answer %d", url, status), func() error {
		r, _, err := f.get(url)
		if r == nil {
			return err
		}
		if r.StatusCode != status {
			return fmt.Errorf("it answers %s", r.Status)
		}
		return nil
	})
}

// backend runs a server that answers /env?name=WHO with its name.
func (f *front) backend(name string) {
	f.t.Helper()
	c := web()
	c.Env = append(c.Env, corev1.EnvVar{Name: "WHO", Value: name})
	_, err := f.client.AppsV1().Deployments(f.ns).Create(f.ctx, deployment(name, 1, c), metav1.CreateOptions{})
	f.must(err)
	f.createService(service(name, corev1.ServiceTypeClusterIP, 8080))
}

// rests tells whether the objects of the ingress controller are gone.
func (f *front) rests() error {
	_, err := f.client.AppsV1().DaemonSets("kube-system").Get(f.ctx, "traefik", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return errors.Join(err, errors.New("the DaemonSet is there"))
	}
	_, err = f.client.CoreV1().Services("kube-system").Get(f.ctx, "traefik", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return errors.Join(err, errors.New("the Service is there"))
	}
	return nil
}

// TestIngress has the ingress controller start with the first Ingress, serve what its users have asked for, and rest
// after the last.
func TestIngress(t *testing.T) {
	t.Parallel()
	s := own(t, "ingress", lab.Options{})
	s.Args = []string{"--rest-after=3s"}
	f := &front{env: begin(t, s), visitor: suite.lab.Host(t, "visitor", lab.Options{})}
	var cert, key []byte
	f.ca, cert, key = f.certificates("app.example.com")
	_, err := f.client.CoreV1().Secrets(f.ns).Create(f.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "tls"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": cert, "tls.key": key}}, metav1.CreateOptions{})
	f.must(err)
	f.backend("one")
	f.backend("two")
	for _, name := range []string{"traefik-crds", "gateway-api-crds", "traefik"} {
		awaitAddon(t, f.client, name, "Ready", "")
	}
	f.waitPods("one", 1)
	f.waitPods("two", 1)
	f.stays("the ingress controller at rest, as nobody uses it", f.rests)
	f.apply(strings.ReplaceAll(otherIngress, "NAME", "somebody-elses"))
	f.stays("the ingress controller at rest, as the Ingress is not its", f.rests)

	start := time.Now()
	f.apply(ownIngress)
	f.serves("http://app.example.com/env?name=WHO", "one")
	t.Logf("the first answer came %v after the first Ingress", time.Since(start).Round(time.Millisecond))

	t.Run("Ingress", f.sub(testIngressRules))
	t.Run("TLS", f.sub(testIngressTLS))
	t.Run("WebSocket", f.sub(testIngressWebSocket))
	t.Run("IngressRoute", f.sub(testIngressRoute))
	t.Run("Gateway", f.sub(testGateway))
	t.Run("Metrics", f.sub(testIngressMetrics))

	f.mustKubectl("delete", "ingress/app", "-n", f.ns)
	f.eventually("the ingress controller to rest after its last object", f.rests)
	f.apply(ownIngress)
	f.serves("http://app.example.com/env?name=WHO", "one")

	// Without it, the objects of its kinds are still there.
	f.apply(aRoute)
	f.eventually("the Ingress to have an address", func() error { return f.addressed(true) })
	_, err = s.Stop(f.ctx)
	f.must(err)
	s.Args = []string{"--disable=traefik,coredns"}
	f.must(s.Host.WriteFile(cluster.DataDir+"/server/static/charts/hello", []byte("hello"), 0o600))
	f.must(s.Start())
	f.client, err = s.WaitNode(f.ctx)
	f.must(err)
	f.eventually("the ingress controller to go", f.rests)
	awaitNoAddon(t, f.client, "traefik-crds")
	f.mustKubectl("get", "ingressroute/kept", "-n", f.ns)
	f.eventually("the Ingress to have no address any more", func() error { return f.addressed(false) })

	awaitNoAddon(t, f.client, "coredns")
	if out := f.mustKubectl("get", "daemonset/coredns", "service/kube-dns", "configmap/coredns", "-n", "kube-system", "--ignore-not-found"); out != "" {
		t.Errorf("of CoreDNS, disabled, there is still\n%s", out)
	}
	anonymous := &http.Client{Transport: &http.Transport{DialContext: f.visitor.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	static, err := body(anonymous.Get("https://" + s.Host.Addr().String() + ":6443/static/charts/hello"))
	if err != nil || static != "hello" {
		t.Errorf("a static file is served as %q, %v", static, err)
	}
}

// addressed is nil when the Ingress has an address, or when it has none.
func (f *front) addressed(want bool) error {
	i, err := f.client.NetworkingV1().Ingresses(f.ns).Get(f.ctx, "app", metav1.GetOptions{})
	if err == nil && len(i.Status.LoadBalancer.Ingress) > 0 != want {
		err = fmt.Errorf("its status is %+v", i.Status.LoadBalancer)
	}
	return err
}

const aRoute = `
apiVersion: traefik.io/v1alpha1
kind: IngressRoute
metadata: {name: kept}
spec:
  routes:
  - {match: PathPrefix(` + "`/kept`" + `), kind: Rule, services: [{name: one, port: 8080}]}
`

// sub runs a part of the test on the same cluster.
func (f *front) sub(part func(*front)) func(*testing.T) {
	return func(t *testing.T) {
		e := *f.env
		e.t, e.ctx = t, t.Context()
		part(&front{&e, f.visitor, f.ca})
	}
}

const ownIngress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app}
spec:
  tls:
  - {hosts: [app.example.com], secretName: tls}
  rules:
  - host: app.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 8080}}}}
      - {path: /headers, pathType: Prefix, backend: {service: {name: two, port: {number: 8080}}}}
  - host: two.example.com
    http:
      paths:
      - {path: /env, pathType: Exact, backend: {service: {name: two, port: {number: 8080}}}}
`

const otherIngress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME}
spec:
  ingressClassName: example.com
  rules:
  - host: other.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 8080}}}}
`

func testIngressRules(f *front) {
	f.serves("http://two.example.com/env?name=WHO", "two")
	f.refuses("http://two.example.com/hostname", http.StatusNotFound)
	f.refuses("http://other.example.com/hostname", http.StatusNotFound)
	f.refuses("http://nobody.example.com/", http.StatusNotFound)
	// Each request keeps its client's address.
	f.serves("http://app.example.com/headers?name=X-Forwarded-For", f.visitor.Addr().String())
	f.serves("http://app.example.com/headers?name=X-Real-Ip", f.visitor.Addr().String())

	ingress, err := f.client.NetworkingV1().Ingresses(f.ns).Get(f.ctx, "app", metav1.GetOptions{})
	f.must(err)
	if class := ingress.Spec.IngressClassName; class == nil || *class != "traefik" {
		f.t.Errorf("the Ingress has the class %v, want the default", class)
	}
	f.eventually("the node's address in the status of the Ingress", func() error {
		ingress, err := f.client.NetworkingV1().Ingresses(f.ns).Get(f.ctx, "app", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if in := ingress.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != f.host.Addr().String() {
			return fmt.Errorf("there is %v", in)
		}
		return nil
	})
}

func testIngressTLS(f *front) {
	f.eventually("an answer over HTTP/2 with the Secret's certificate", func() error {
		r, text, err := f.get("https://app.example.com/env?name=WHO")
		if err != nil {
			return err
		}
		if r.ProtoMajor != 2 || text != "one" {
			return fmt.Errorf("it is %q over %s", text, r.Proto)
		}
		return nil
	})
	f.serves("https://app.example.com/headers?name=X-Forwarded-Proto", "https")
}

func testIngressWebSocket(f *front) {
	for scheme, port := range map[string]string{"ws": "80", "wss": "443"} {
		conn, err := f.dial(f.ctx, "tcp", ":"+port)
		f.must(err)
		defer conn.Close()
		f.must(conn.SetDeadline(time.Now().Add(patience)))
		if scheme == "wss" {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(f.ca)
			conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "app.example.com", NextProtos: []string{"http/1.1"}})
		}
		config, err := websocket.NewConfig(scheme+"://app.example.com/websocket", "http://app.example.com")
		f.must(err)
		ws, err := websocket.NewClient(config, conn)
		f.must(err)
		for _, text := range []string{"hello", "again"} {
			f.must(websocket.Message.Send(ws, text))
			var back string
			f.must(websocket.Message.Receive(ws, &back))
			if back != text {
				f.t.Errorf("%s: %q came back for %q", scheme, back, text)
			}
		}
	}
}

func testIngressRoute(f *front) {
	f.apply(`
apiVersion: traefik.io/v1alpha1
kind: Middleware
metadata: {name: strip}
spec:
  stripPrefix: {prefixes: [/two]}
---
apiVersion: traefik.io/v1alpha1
kind: Middleware
metadata: {name: header}
spec:
  headers:
    customRequestHeaders: {X-Added: by-middleware}
---
apiVersion: traefik.io/v1alpha1
kind: Middleware
metadata: {name: secure}
spec:
  redirectScheme: {scheme: https, permanent: true}
---
apiVersion: traefik.io/v1alpha1
kind: IngressRoute
metadata: {name: route}
spec:
  entryPoints: [web]
  routes:
  - match: Host(` + "`route.example.com`) && PathPrefix(`/two`)" + `
    kind: Rule
    middlewares: [{name: strip}, {name: header}]
    services: [{name: two, port: 8080}]
  - match: Host(` + "`route.example.com`) && Path(`/moved`)" + `
    kind: Rule
    middlewares: [{name: secure}]
    services: [{name: one, port: 8080}]
`)
	f.serves("http://route.example.com/two/env?name=WHO", "two")
	f.serves("http://route.example.com/two/headers?name=X-Added", "by-middleware")
	f.refuses("http://route.example.com/moved", http.StatusMovedPermanently)
	f.refuses("http://route.example.com/env", http.StatusNotFound)
	f.mustKubectl("delete", "ingressroute/route", "-n", f.ns)
	f.refuses("http://route.example.com/two/env?name=WHO", http.StatusNotFound)
}

func testGateway(f *front) {
	f.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate}
spec:
  gatewayClassName: traefik
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: app.example.com
    tls: {certificateRefs: [{name: tls}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: gated}
spec:
  parentRefs: [{name: gate}]
  hostnames: [gate.example.com]
  rules:
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /env}}
    backendRefs: [{name: one, port: 8080}]
  - backendRefs: [{name: two, port: 8080}]
`)
	f.serves("http://gate.example.com/env?name=WHO", "two")
	f.serves("http://gate.example.com/old?name=WHO", "one")
	f.eventually("the Gateway to be programmed, at the node's address", func() error {
		out, err := f.runKubectl("get", "gateway/gate", "-n", f.ns, "-o", "json")
		if err != nil {
			return err
		}
		var gate struct {
			Status struct {
				Addresses  []struct{ Value string }
				Conditions []metav1.Condition
			}
		}
		if err := json.Unmarshal([]byte(out), &gate); err != nil {
			return err
		}
		for _, c := range gate.Status.Conditions {
			if c.Type == "Programmed" && c.Status == metav1.ConditionTrue && len(gate.Status.Addresses) == 1 && gate.Status.Addresses[0].Value == f.host.Addr().String() {
				return nil
			}
		}
		return fmt.Errorf("its status is %+v", gate.Status)
	})
	f.mustKubectl("delete", "gateway/gate", "httproute/gated", "-n", f.ns)
	f.refuses("http://gate.example.com/env?name=WHO", http.StatusNotFound)
}

// testIngressMetrics asks as Prometheus would, and checks that it runs as nobody.
func testIngressMetrics(f *front) {
	pods, err := f.client.CoreV1().Pods("kube-system").List(f.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=traefik"})
	f.must(err)
	if len(pods.Items) != 1 {
		f.t.Fatalf("there are %d pods of the ingress controller, want one for the node", len(pods.Items))
	}
	address := url.URL{Scheme: "http", Host: net.JoinHostPort(pods.Items[0].Status.PodIP, "9100"), Path: "/metrics"}
	f.eventually("metrics of the requests", func() error {
		text, err := get(f.host, address.String())
		if err == nil && !strings.Contains(text, `traefik_entrypoint_requests_total{code="200"`) {
			err = errors.New("there are none")
		}
		return err
	})
}
