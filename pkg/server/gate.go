package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/token"
	"github.com/knarr-io/knarr/pkg/tunnel"
	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
	"github.com/knarr-io/knarr/pkg/version"
)

// newClient reaches the API in-process, for knarr's own components.
func newClient(kube *apiserver.Component) kubernetes.Interface {
	// The configuration is made here, not read: a client from it cannot fail.
	return kubernetes.NewForConfigOrDie(kube.ClientConfig("system:knarr-controller", user.SystemPrivilegedGroup))
}

// gate is where agents come in. It is made before the API, whose port it shares, and opened after it.
type gate struct {
	joins   *join.Server
	tunnels *tunnel.Server
	shared  *atomic.Pointer[agent.Shared]
	log     *slog.Logger
}

// errNotOpen is what those get who come before the API is there.
var errNotOpen = errors.New("the server is starting")

func (p Plan) gate(store *datastore.Component, log *slog.Logger) gate {
	g := gate{shared: new(atomic.Pointer[agent.Shared]), log: log}
	g.tunnels = tunnel.NewServer(func() informers.SharedInformerFactory { return g.shared.Load().Informers() }, log)
	g.joins = join.NewServer(join.ServerConfig{
		Keys:    p.certificates(),
		Tokens:  token.Store{ServerDir: p.Dir.Server()},
		Cluster: p.forMembers(),
		Bundle:  func(ctx context.Context) (join.Bundle, error) { return p.bundle(ctx, store) },
		Client: func() (kubernetes.Interface, error) {
			if s := g.shared.Load(); s != nil {
				return s.Client()
			}
			return nil, errNotOpen
		},
		Apart:  !p.Components.APIServer,
		Tunnel: g.tunnels.Serve,
	}, log)
	return g
}

// forMembers is what those who join are told.
func (p Plan) forMembers() join.Cluster {
	c := join.Cluster{Version: version.Version}
	for _, s := range p.Shared() {
		c.Settings = append(c.Settings, join.Setting(s))
	}
	if a := p.AdvertiseAddress(p.HostIPs...); a.IsValid() && p.Components.APIServer {
		c.Servers = []string{net.JoinHostPort(a.String(), strconv.Itoa(int(p.Listener.Port)))}
	}
	return c
}

// open adds to g what works behind the gate, after the API.
func (g gate) open(group *lifecycle.Group, shared agent.Shared, api lifecycle.Ref) {
	g.shared.Store(&shared)
	group.Add(g.tunnels, lifecycle.After(api))
	group.Add(join.NewSweeper(shared.Client, shared.Informers, g.log), lifecycle.After(api), lifecycle.Optional())
	group.Add(lifecycle.Func("agent-roles", func(ctx context.Context, ready func()) error {
		client, err := shared.Client()
		if err != nil {
			return err
		}
		if err := grantAgents(ctx, client); err != nil && ctx.Err() == nil {
			return err
		}
		ready()
		<-ctx.Done()
		return nil
	}), lifecycle.After(api))
}

// agentRole is what knarr's own components on an agent may do, beside what its kubelet may: watch what the pod network
// and its policies are made of. They write to nothing but their own Node, as the kubelet.
func agentRole() *rbacv1.ClusterRole {
	watch := []string{"get", "list", "watch"}
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: pki.UserController},
		Rules: []rbacv1.PolicyRule{
			{Verbs: watch, APIGroups: []string{""}, Resources: []string{"nodes", "namespaces", "pods", "services", "endpoints"}},
			{Verbs: watch, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
			{Verbs: watch, APIGroups: []string{"networking.k8s.io"}, Resources: []string{"networkpolicies"}},
		},
	}
}

// binding gives a ClusterRole to a user.
func binding(name, role, to string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: to}},
	}
}

// grantAgents makes the role and the binding what they should be.
func grantAgents(ctx context.Context, client kubernetes.Interface) error {
	roles, bindings := client.RbacV1().ClusterRoles(), client.RbacV1().ClusterRoleBindings()
	_, err := roles.Create(ctx, agentRole(), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = roles.Update(ctx, agentRole(), metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("grant agents what they need: %w", err)
	}
	_, err = bindings.Create(ctx, binding(pki.UserController, pki.UserController, pki.UserController), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("grant agents what they need: %w", err)
	}
	return nil
}
