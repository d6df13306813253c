package servicelb

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/follow"
)

const (
	// While a Service waits for a port of this host, or is served by other hosts only, the host is looked at again after
	// firstLook, then less and less often down to every lastLook. Otherwise nothing happens between events.
	firstLook = 2 * time.Second
	lastLook  = time.Minute
)

// Host is what the reporter has to know.
type Host struct {
	NodeName string
	// IPs are the node's internal addresses, ExternalIPs those it is given from outside.
	IPs, ExternalIPs []netip.Addr
}

// Reporter is the component of a node. Use [NewReporter].
type Reporter struct {
	Host
	client func() (kubernetes.Interface, error)
	log    *slog.Logger
	look   func(ports map[Port]bool) (map[Port]string, error)
	links  func() ([]netip.Addr, error)
}

// NewReporter makes the component. client is called when it runs and needs no more than a kubelet's rights: to watch
// Services, to list the pods of its own node, to get and to patch its own Node.
func NewReporter(h Host, client func() (kubernetes.Interface, error), log *slog.Logger) *Reporter {
	own := slices.Concat(h.IPs, h.ExternalIPs)
	return &Reporter{Host: h, client: client, log: log, look: newListeners(own).holders, links: linkAddresses}
}

// Name is "servicelb-ports".
func (*Reporter) Name() string { return "servicelb-ports" }

// Run is ready when it has answered for the Services that there are. Until there is one it keeps an idle watch and
// nothing else.
func (r *Reporter) Run(ctx context.Context, ready func()) error {
	client, err := r.client()
	if err != nil {
		return fmt.Errorf("make the client that reports ports: %w", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimService),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.type", string(corev1.ServiceTypeLoadBalancer)).String()
		}))
	defer factory.Shutdown()
	events := follow.NewBell()
	informer := factory.Core().V1().Services().Informer()
	watching, cancel := context.WithCancel(ctx)
	defer cancel() // before Shutdown
	following, err := follow.Start(watching, factory, follow.On{Informer: informer, Handler: onChange(events.Ring, serviceChanged)})
	if err != nil {
		return fmt.Errorf("watch load balancer services: %w", err)
	}
	defer following.End()
	if !following.Synced(ctx) {
		return nil
	}
	a := &answers{Reporter: r, client: client, services: informer.GetStore()}
	a.keep(ctx, events, ready)
	return nil
}

// answers is one life of a Reporter.
type answers struct {
	*Reporter
	client   kubernetes.Interface
	services cache.Store
	last     Report
	written  *string // the annotation as it is; nil before it was read
}

// keep answers again after every event and, as long as something may change by itself, from time to time.
func (a *answers) keep(ctx context.Context, events <-chan struct{}, ready func()) {
	delay := firstLook
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			delay = firstLook
		case <-timer.C:
		}
		again, err := a.answer(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("cannot tell the cluster which ports of this host are taken, will try again", "error", err)
		}
		ready()
		ready = func() {}
		timer.Stop()
		if again || err != nil {
			timer.Reset(delay)
			delay = min(2*delay, lastLook)
		}
	}
}

// answer looks at the ports that Services want and writes down who has them. It tells whether to look again.
func (a *answers) answer(ctx context.Context) (again bool, err error) {
	now := Report{Ports: make(map[string]string)}
	open := make(map[Port]bool) // to be looked at
	for _, obj := range a.services.List() {
		s, ok := obj.(*corev1.Service)
		if !ok || !Ours(s) {
			continue
		}
		served := a.serves(s)
		for _, sp := range s.Spec.Ports {
			p := Port{sp.Protocol, sp.Port}
			holder, looked := a.last.Ports[p.String()]
			if served && looked {
				now.Ports[p.String()] = holder
				continue
			}
			open[p] = true
			again = again || !served
		}
	}
	if len(open) > 0 {
		holders, err := a.holders(ctx, open)
		if err != nil {
			return true, err
		}
		for p := range open {
			now.Ports[p.String()] = holders[p]
		}
		if now.Translated, err = a.translated(); err != nil {
			return true, err
		}
	} else {
		now.Translated = a.last.Translated
	}
	a.last = now
	return again, a.write(ctx, now.text())
}

// serves tells whether s has an address of this host.
func (a *answers) serves(s *corev1.Service) bool {
	for _, in := range s.Status.LoadBalancer.Ingress {
		ip, err := netip.ParseAddr(in.IP)
		if err == nil && (slices.Contains(a.IPs, ip) || slices.Contains(a.ExternalIPs, ip)) {
			return true
		}
	}
	return false
}

// holders are listening programs and pods with host ports. The latter have no socket: packets for them are diverted.
func (a *answers) holders(ctx context.Context, open map[Port]bool) (map[Port]string, error) {
	pods, err := a.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("spec.nodeName", a.NodeName).String(),
		ResourceVersion: "0", // out of the API's cache
	})
	if err != nil {
		return nil, fmt.Errorf("list the pods of node %s: %w", a.NodeName, err)
	}
	holders := make(map[Port]string)
	for i := range pods.Items {
		for _, p := range hostPorts(&pods.Items[i]) {
			holders[p] = "the host port of pod " + pods.Items[i].Namespace + "/" + pods.Items[i].Name
		}
	}
	listening, err := a.look(open)
	maps.Copy(holders, listening)
	return holders, err
}

// hostPorts are the ports of the host that pod p has diverted to itself.
func hostPorts(p *corev1.Pod) (ports []Port) {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, cp := range c.Ports {
			if cp.HostPort != 0 {
				ports = append(ports, Port{cp.Protocol, cp.HostPort})
			}
		}
	}
	return ports
}

// translated are the external addresses that no link of the host has.
func (a *answers) translated() ([]string, error) {
	if len(a.ExternalIPs) == 0 {
		return nil, nil
	}
	have, err := a.links()
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, ip := range a.ExternalIPs {
		if !slices.Contains(have, ip) {
			missing = append(missing, ip.String())
		}
	}
	return missing, nil
}

// linkAddresses are all addresses of the host.
func linkAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var ips []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	return ips, nil
}

// write brings the annotation up to date.
func (a *answers) write(ctx context.Context, text string) error {
	nodes := a.client.CoreV1().Nodes()
	if a.written == nil {
		n, err := nodes.Get(ctx, a.NodeName, metav1.GetOptions{ResourceVersion: "0"})
		if err != nil {
			return fmt.Errorf("read node %s: %w", a.NodeName, err)
		}
		was := n.Annotations[AnnotationReport]
		a.written = &was
	}
	if *a.written == text {
		return nil
	}
	var value *string // null removes it
	if text != "" {
		value = &text
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{AnnotationReport: value}}})
	if err != nil {
		return fmt.Errorf("encode the report of node %s: %w", a.NodeName, err)
	}
	_, err = nodes.Patch(ctx, a.NodeName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("report the ports of node %s: %w", a.NodeName, err)
	}
	a.written = &text
	if err != nil { // deleted: whether it comes back is to be seen
		a.written = nil
	}
	return nil
}

// trimService keeps what is asked here.
func trimService(obj any) (any, error) {
	if s, ok := obj.(*corev1.Service); ok {
		s.ManagedFields, s.Annotations = nil, nil
	}
	return obj, nil
}
