package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Annotations and the finalizer are k3s's, so that objects taken over from there behave as they did.
const (
	annotationUnmanaged = "helmcharts.helm.cattle.io/unmanaged"
	annotationManagedBy = "helmcharts.cattle.io/managed-by"
	managedBy           = "helm-controller"
	finalizer           = "wrangler.cattle.io/on-helm-chart-remove"
)

// work does what is due for one chart and sees to it that it is done again if it fails.
func (r *run) work(key string) {
	err := r.guarded(key)
	if r.ctx.Err() != nil {
		return
	}
	log := r.log.With("chart", key)
	var final permanent
	var stopped halted
	switch {
	case err == nil:
		r.queue.Forget(key)
	case errors.Is(err, errForeign):
		r.queue.AddAfter(key, time.Minute)
	case apierrors.IsConflict(err): // the change that it conflicts with is an event
		r.queue.AddRateLimited(key)
	case errors.As(err, &stopped):
		r.queue.Forget(key)
	case errors.As(err, &final):
		log.Warn("a Helm chart cannot be installed until its HelmChart is changed", "error", err)
		r.queue.Forget(key)
	default:
		log.Warn("a Helm chart failed, will try again", "error", err)
		r.queue.AddRateLimited(key)
	}
}

// guarded is sync for charts that make Helm's library panic: they are in nobody's way either.
func (r *run) guarded(key string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = permanent{fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
		}
	}()
	return r.sync(key)
}

// sync brings one chart's release to what the chart wants and reports it in the chart's status.
func (r *run) sync(key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	obj, err := r.charts.ByNamespace(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		r.secrets.set(key, nil)
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up HelmChart %s: %w", key, err)
	}
	c := &Chart{}
	if err := decodeObject(obj, c); err != nil {
		return err
	}
	managed := c.managed()
	if c.DeletionTimestamp != nil {
		return r.delete(c, managed)
	}
	if !managed {
		r.secrets.set(key, nil)
		return nil
	}
	if err := r.claim(c); err != nil {
		return err
	}
	done, err := r.deploy(c)
	limit := int32(defaultBackOffLimit)
	if c.Spec.BackOffLimit != nil {
		limit = *c.Spec.BackOffLimit
	}
	failures := int32(r.queue.NumRequeues(key)) + 1 //nolint:gosec // counts attempts of minutes
	if err != nil && failures > limit && !errors.Is(err, errForeign) {
		err = permanent{fmt.Errorf("given up after %d attempts: %w", failures, err)}
	}
	if r.ctx.Err() != nil {
		return err // the reason is the process's end
	}
	return errors.Join(err, r.report(c, done, err, failures))
}

// managed tells whether this controller is to care for the chart.
func (c *Chart) managed() bool {
	if _, ok := c.Annotations[annotationUnmanaged]; ok {
		return false
	}
	by, ok := c.Annotations[annotationManagedBy]
	return !ok || by == managedBy
}

func (c *Chart) target() string {
	if c.Spec.TargetNamespace != "" {
		return c.Spec.TargetNamespace
	}
	return c.Namespace
}

// claim puts finalizer and annotation on the chart.
func (r *run) claim(c *Chart) error {
	if slices.Contains(c.Finalizers, finalizer) && c.Annotations[annotationManagedBy] == managedBy {
		return nil
	}
	err := r.patchMetadata(c, map[string]any{
		"annotations": map[string]string{annotationManagedBy: managedBy},
		"finalizers":  slices.Compact(append(slices.Clone(c.Finalizers), finalizer)),
	})
	if err != nil {
		return fmt.Errorf("claim HelmChart %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}

func (r *run) patchMetadata(c *Chart, metadata map[string]any) error {
	metadata["resourceVersion"] = c.ResourceVersion
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return fmt.Errorf("encode the patch: %w", err)
	}
	_, err = r.objects.Resource(charts()).Namespace(c.Namespace).Patch(r.ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// delete uninstalls the release of a chart that is being deleted, and lets the chart go.
func (r *run) delete(c *Chart, managed bool) error {
	if !slices.Contains(c.Finalizers, finalizer) {
		return nil
	}
	if managed {
		places := []string{c.target()}
		if c.Status.Namespace != "" && c.Status.Namespace != places[0] {
			places = append(places, c.Status.Namespace)
		}
		for _, namespace := range places {
			if err := r.remove(c, namespace); err != nil {
				err = fmt.Errorf("uninstall: %w", err)
				return errors.Join(err, r.report(c, nil, err, int32(r.queue.NumRequeues(c.key()))+1)) //nolint:gosec // as in sync
			}
		}
	}
	rest := slices.DeleteFunc(slices.Clone(c.Finalizers), func(f string) bool { return f == finalizer })
	if err := r.patchMetadata(c, map[string]any{"finalizers": rest}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("let HelmChart %s go: %w", c.key(), err)
	}
	r.secrets.set(c.key(), nil)
	return nil
}

func (c *Chart) key() string { return c.Namespace + "/" + c.Name }

// remove uninstalls the chart's release in a namespace, if there is one that is not another chart's.
func (r *run) remove(c *Chart, namespace string) error {
	now, err := currentState(r.ctx, r.access, namespace, c.Name, c.Spec.Driver)
	if err != nil || now.status == "" || now.owner != "" && now.owner != c.Namespace {
		return err
	}
	helm, err := r.releaser(c, namespace, "")
	if err != nil {
		return err
	}
	// In a namespace that is being deleted nothing can be made, hooks neither.
	in, err := r.client.CoreV1().Namespaces().Get(r.ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look up the namespace of the release: %w", err)
	}
	if err := helm.uninstall(in.Status.Phase != corev1.NamespaceTerminating); err != nil {
		return err
	}
	r.log.Info("Helm chart is uninstalled", "chart", c.key(), "namespace", namespace)
	r.event(c, corev1.EventTypeNormal, "Uninstalled", fmt.Sprintf("Uninstalled release %s from namespace %s", c.Name, namespace))
	return nil
}

func (r *run) releaser(c *Chart, namespace, hash string) (*releaser, error) {
	helm, err := newReleaser(r.ctx, r.access, namespace, c.Name, c.Spec.Driver, r.log.With("chart", c.key()))
	if err != nil {
		return nil, err
	}
	if c.Spec.Timeout != nil {
		helm.timeout = c.Spec.Timeout.Duration
	}
	helm.labels = map[string]string{labelHash: hash, labelOwner: c.Namespace}
	return helm, nil
}

// result is what [run.deploy] has found or done.
type result struct {
	step    step // the last one, "" if nothing was to be done
	release *releasev1.Release
}

// wish is a chart with its HelmChartConfig.
type wish struct {
	spec   ChartSpec // with the overrides
	layers []layer
	hash   string
}

func (r *run) wish(ctx context.Context, c *Chart) (wish, error) {
	config, err := r.configOf(c.Namespace, c.Name)
	if err != nil {
		return wish{}, err
	}
	w := wish{spec: c.Spec}
	refs := slices.Clone(c.Spec.ValuesSecrets)
	var more *ConfigSpec
	if config != nil {
		more = &config.Spec
		refs = append(refs, more.ValuesSecrets...)
		if more.FailurePolicy != "" {
			w.spec.FailurePolicy = more.FailurePolicy
		}
		if more.ServerSide != "" {
			w.spec.ServerSide = more.ServerSide
		}
		if more.ForceConflicts != nil {
			w.spec.ForceConflicts = *more.ForceConflicts
		}
	}
	var names []string
	for _, ref := range refs {
		if len(ref.Keys) > 0 && !ref.IgnoreUpdates {
			names = append(names, ref.Name)
		}
	}
	r.secrets.set(c.key(), names) // before they are read, so that no change is missed
	w.layers, err = layers(ctx, c.Spec, more, func(ctx context.Context, name string) (map[string][]byte, error) {
		s, err := r.client.CoreV1().Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return s.Data, nil
	})
	if err != nil {
		return w, err
	}
	w.hash, err = fingerprint(w.spec, w.layers)
	return w, err
}

// deploy installs or upgrades, if that is due.
func (r *run) deploy(c *Chart) (*result, error) {
	w, err := r.wish(r.ctx, c)
	if err != nil {
		return nil, err
	}
	namespace := c.target()
	if old := c.Status.Namespace; old != "" && old != namespace {
		if err := r.remove(c, old); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("uninstall from the namespace %s that the chart was in: %w", old, err)
		}
	}
	now, err := currentState(r.ctx, r.access, namespace, c.Name, c.Spec.Driver)
	if err != nil {
		return nil, err
	}
	if now.owner != "" && now.owner != c.Namespace {
		return nil, permanent{fmt.Errorf("the release %s in namespace %s belongs to the HelmChart %s/%s", c.Name, namespace, now.owner, c.Name)}
	}
	timeout := defaultTimeout
	if c.Spec.Timeout != nil {
		timeout = c.Spec.Timeout.Duration
	}
	steps, err := plan(now, w.hash, w.spec.FailurePolicy, time.Since(now.since) > timeout)
	if err != nil {
		return nil, err
	}
	if len(steps) == 0 {
		return r.unchanged(c, namespace, now)
	}
	chart, values, err := r.load(c, w)
	if err != nil {
		return nil, err
	}
	helm, err := r.releaser(c, namespace, w.hash)
	if err != nil {
		return nil, err
	}
	return r.take(c, helm, steps, chart, values, options{
		createNamespace: c.Spec.CreateNamespace,
		takeOwnership:   c.Spec.TakeOwnership,
		forceConflicts:  w.spec.ForceConflicts,
		serverSide:      w.spec.ServerSide,
	})
}

// unchanged reads the release when the status is not about it: the process may have ended before it was written.
func (r *run) unchanged(c *Chart, namespace string, now state) (*result, error) {
	if c.Status.Revision == now.revision && c.Status.Release == now.status.String() && c.Status.Namespace == namespace {
		return &result{}, nil
	}
	helm, err := r.releaser(c, namespace, now.hash)
	if err != nil {
		return nil, err
	}
	last, err := helm.last()
	return &result{release: last}, err
}

// load reads chart and values: all that can fail before anything is touched.
func (r *run) load(c *Chart, w wish) (*chartv2.Chart, map[string]any, error) {
	values, err := mergeValues(w.layers, w.spec.Set)
	if err != nil {
		return nil, nil, err
	}
	may, err := accessOf(r.ctx, r.client, c.Namespace, c.Spec)
	if err != nil {
		return nil, nil, err
	}
	from := source{chart: c.Spec.Chart, version: c.Spec.Version, repo: c.Spec.Repo, content: c.Spec.ChartContent, access: may, registries: r.registries, static: r.static}
	ctx, cancel := context.WithTimeoutCause(r.ctx, defaultTimeout, fmt.Errorf("the chart did not arrive within %v", defaultTimeout))
	defer cancel()
	chart, err := from.fetch(ctx)
	return chart, values, err
}

// take takes the steps, one after the other.
func (r *run) take(c *Chart, helm *releaser, steps []step, chart *chartv2.Chart, values map[string]any, o options) (*result, error) {
	done := &result{}
	for _, s := range steps {
		var err error
		switch s {
		case stepRecover:
			err = helm.recover()
		case stepUninstall:
			err = helm.uninstall(true)
		case stepInstall:
			done.release, err = helm.install(chart, values, o)
		case stepUpgrade:
			done.release, err = helm.upgrade(chart, values, o)
		}
		done.step = s
		if err != nil {
			return done, fmt.Errorf("%s: %w", s, err)
		}
	}
	r.log.Info("Helm chart is deployed", "chart", c.key(), "by", done.step, "namespace", helm.namespace, "version", chart.Metadata.Version, "revision", done.release.Version)
	return done, nil
}
