package helm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	corev1 "k8s.io/api/core/v1"
)

// Labels of a release, beside Helm's own.
const (
	// labelHash is k3s's: the [fingerprint] of what the release was made from.
	labelHash = "helmcharts.helm.cattle.io/configHash"
	// labelOwner is the namespace of the HelmChart, whose name is the release's.
	labelOwner = "knarr.io/helmchart-namespace"
)

const (
	// maxHistory is how many revisions Helm keeps of a release: its command's own default.
	maxHistory = 10
	// defaultTimeout is that of Helm's command.
	defaultTimeout = 5 * time.Minute
)

// state is what is known of the newest revision of a release; the zero value says that there is none.
type state struct {
	revision int
	status   common.Status
	hash     string
	// owner is the namespace of the HelmChart that made the release; "" when somebody else did.
	owner string
	// deployed tells that this revision or an earlier one is deployed.
	deployed bool
	// since is when the newest revision was made.
	since time.Time
}

// currentState reads only metadata: the releases themselves contain the chart, ten times over.
func currentState(ctx context.Context, config *rest.Config, namespace, name, driverName string) (state, error) {
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return state{}, fmt.Errorf("make a client for metadata: %w", err)
	}
	resource := corev1.SchemeGroupVersion.WithResource("secrets")
	if driverName == "configmap" {
		resource.Resource = "configmaps"
	}
	list, err := client.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{"owner": "helm", "name": name}.String(),
	})
	if err != nil {
		return state{}, fmt.Errorf("look for the release %s in namespace %s: %w", name, namespace, err)
	}
	var newest state
	deployed := false
	for _, item := range list.Items {
		l := item.Labels
		deployed = deployed || l["status"] == common.StatusDeployed.String()
		if revision, err := strconv.Atoi(l["version"]); err == nil && revision > newest.revision {
			newest = state{revision: revision, status: common.Status(l["status"]), hash: l[labelHash], owner: l[labelOwner], since: item.CreationTimestamp.Time}
		}
	}
	newest.deployed = deployed
	return newest, nil
}

// releaser does Helm's actions on one release. It is made for one reconciliation and dropped, with its clients and all
// they have learnt.
type releaser struct {
	name, namespace string
	timeout         time.Duration
	// labels are what a release is recognised by.
	labels map[string]string

	ctx    context.Context //nolint:containedctx // of the one reconciliation
	config *action.Configuration
}

// newReleaser makes one whose requests to the API end with ctx.
func newReleaser(ctx context.Context, base *rest.Config, namespace, name, driverName string, log *slog.Logger) (*releaser, error) {
	getter, err := newGetter(ctx, base, namespace)
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(getter.config)
	if err != nil {
		return nil, fmt.Errorf("make Helm's client: %w", err)
	}
	client := kube.New(getter)
	client.Namespace = namespace
	client.SetLogger(log.Handler())

	// As action.Configuration.Init does (helm.sh/helm/v4 v4.3.1, pkg/action/action.go:694), without its SQL driver.
	config := action.NewConfiguration(action.ConfigurationSetLogger(log.Handler()))
	config.RESTClientGetter = getter
	config.KubeClient = client
	if driverName == "configmap" {
		d := driver.NewConfigMaps(clients.CoreV1().ConfigMaps(namespace))
		d.SetLogger(log.Handler())
		config.Releases = storage.Init(d)
	} else {
		d := driver.NewSecrets(clients.CoreV1().Secrets(namespace))
		d.SetLogger(log.Handler())
		config.Releases = storage.Init(d)
	}
	config.HookOutputFunc = discard
	return &releaser{name: name, namespace: namespace, timeout: defaultTimeout, ctx: ctx, config: config}, nil
}

// options are what differs from one HelmChart to the next.
type options struct {
	createNamespace, takeOwnership, forceConflicts bool
	serverSide                                     string // "true", "false", "auto" or ""
}

func (r *releaser) waits() []kube.WaitOption { return []kube.WaitOption{kube.WithWaitContext(r.ctx)} }

// install makes the first revision, or the next one after a failure. Helm waits for hooks, not for the chart's own
// objects, as the Jobs of k3s do: one object that never gets ready would hold up all that others wait for.
func (r *releaser) install(chart *chartv2.Chart, values map[string]any, o options) (*releasev1.Release, error) {
	i := action.NewInstall(r.config)
	i.ReleaseName, i.Namespace, i.Timeout = r.name, r.namespace, r.timeout
	i.CreateNamespace, i.TakeOwnership, i.ForceConflicts = o.createNamespace, o.takeOwnership, o.forceConflicts
	i.ServerSideApply = o.serverSide != "false"
	i.Replace = true
	i.Labels = r.labels
	i.WaitStrategy, i.WaitOptions = kube.HookOnlyStrategy, r.waits()
	// Not r.ctx: the action would return and go on in the background. It ends because its requests do.
	return revision(i.RunWithContext(context.WithoutCancel(r.ctx), chart, values))
}

// upgrade makes the next revision. Values that are no longer wanted are gone, unlike with helm's command, which keeps
// the last ones when there are none.
func (r *releaser) upgrade(chart *chartv2.Chart, values map[string]any, o options) (*releasev1.Release, error) {
	u := action.NewUpgrade(r.config)
	u.Namespace, u.Timeout, u.MaxHistory = r.namespace, r.timeout, maxHistory
	u.TakeOwnership, u.ForceConflicts = o.takeOwnership, o.forceConflicts
	if o.serverSide != "" {
		u.ServerSideApply = o.serverSide
	}
	u.ResetValues = true
	u.Labels = r.labels
	u.WaitStrategy, u.WaitOptions = kube.HookOnlyStrategy, r.waits()
	return revision(u.RunWithContext(context.WithoutCancel(r.ctx), r.name, chart, values))
}

// uninstall removes the release and waits until its objects are gone; that there is none is fine.
func (r *releaser) uninstall(hooks bool) error {
	u := action.NewUninstall(r.config)
	u.Timeout, u.IgnoreNotFound, u.DisableHooks = r.timeout, true, !hooks
	u.DeletionPropagation = "background"
	u.WaitStrategy, u.WaitOptions = kube.StatusWatcherStrategy, r.waits()
	_, err := u.Run(r.name)
	return err
}

// recover marks the newest revision as failed, which a process left behind that ended in the middle of it: Helm
// refuses to touch a release that is being worked on. Without its hash it is no failure to [plan].
func (r *releaser) recover() error {
	last, err := r.last()
	if err != nil || last == nil || !last.Info.Status.IsPending() {
		return err
	}
	last.Labels = map[string]string{labelHash: "", labelOwner: r.labels[labelOwner]}
	last.SetStatus(common.StatusFailed, "interrupted while "+last.Info.Status.String())
	if err := r.config.Releases.Update(last); err != nil {
		return fmt.Errorf("mark revision %d of the release %s as failed: %w", last.Version, r.name, err)
	}
	return nil
}

// last is the newest revision, nil if there is none.
func (r *releaser) last() (*releasev1.Release, error) {
	found, err := r.config.Releases.Last(r.name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the release %s: %w", r.name, err)
	}
	return revision(found, nil)
}

// revision is a release of the one version that Helm has so far.
func revision(any release.Releaser, err error) (*releasev1.Release, error) {
	r, ok := any.(*releasev1.Release)
	if !ok && err == nil {
		return nil, fmt.Errorf("read the release: %T is of an unknown version", any)
	}
	return r, err
}

// getter hands Helm the clients that it asks for.
type getter struct {
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
	namespace string
}

func newGetter(ctx context.Context, base *rest.Config, namespace string) (*getter, error) {
	config := unbound(base)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bound{ctx, next} })
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make Helm's discovery client: %w", err)
	}
	cached := memory.NewMemCacheClient(client)
	return &getter{config, cached, restmapper.NewDeferredDiscoveryRESTMapper(cached), namespace}, nil
}

// unbound is a copy of base without its content type, which not all of Helm's clients set.
func unbound(base *rest.Config) *rest.Config {
	config := rest.CopyConfig(base)
	config.ContentConfig = rest.ContentConfig{}
	return config
}

func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

func (g *getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(clientcmdapi.Config{}, &clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}

func discard(string, string, string) io.Writer { return io.Discard }
