package apiserver

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/klog/v2"
	schedulingapi "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// hooks are post-start hooks by name.
type hooks map[string]genericapiserver.PostStartHookFunc

// takeSlowHooks has the chain of servers that config begins built without the two hooks that wait a second before they
// do anything, in case etcd is down, and hold up readiness meanwhile (pkg/registry/rbac/rest/storage_rbac.go:166,
// pkg/registry/scheduling/rest/storage_scheduling.go:176). What it returns makes the same objects at once; where that
// fails, upstream's hook has its turn. Call it before config is complete.
func takeSlowHooks(config *genericapiserver.Config) (hooks, error) {
	prompt := hooks{}
	for _, h := range []struct {
		upstream genericapiserver.PostStartHookProvider
		make     func(context.Context, kubernetes.Interface) error
	}{
		{rbacrest.RESTStorageProvider{}, makePolicy},
		{schedulingrest.RESTStorageProvider{}, makePriorityClasses},
	} {
		name, slow, err := h.upstream.PostStartHook()
		if err != nil {
			return nil, fmt.Errorf("find a post-start hook: %w", err)
		}
		config.DisabledPostStartHooks.Insert(name)
		prompt[name] = firstTry(name, h.make, slow)
	}
	return prompt, nil
}

// firstTry is a hook that makes what slow would make, and calls slow only if it could not.
func firstTry(name string, make func(context.Context, kubernetes.Interface) error, slow genericapiserver.PostStartHookFunc) genericapiserver.PostStartHookFunc {
	return func(ctx genericapiserver.PostStartHookContext) error {
		client, err := kubernetes.NewForConfig(ctx.LoopbackClientConfig)
		if err == nil {
			err = make(ctx, client)
		}
		if err != nil {
			klog.InfoS("The start goes on more slowly", "hook", name, "err", err)
			return slow(ctx)
		}
		return nil
	}
}

// install adds the hooks to the first server of the chain, the one that runs hooks. The servers share the set of disabled
// names with config.
func (h hooks) install(first *genericapiserver.GenericAPIServer, config *genericapiserver.Config) error {
	for name, hook := range h {
		config.DisabledPostStartHooks.Delete(name)
		if err := first.AddPostStartHook(name, hook); err != nil {
			return fmt.Errorf("add post-start hook: %w", err)
		}
	}
	return nil
}

// policyWriters is how many objects are written at a time, so that they share the datastore's commits.
const policyWriters = 16

// makePolicy makes or completes the roles and bindings that upstream brings along. It leaves out what its hook does
// first, for clusters that were made before version 1.14 (pkg/registry/rbac/rest/storage_rbac.go:195).
func makePolicy(_ context.Context, client kubernetes.Interface) error {
	var g errgroup.Group
	g.SetLimit(policyWriters)
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	role := func(r reconciliation.RuleOwner, in reconciliation.RuleOwnerModifier) {
		g.Go(retried(r, func() (bool, error) {
			o := reconciliation.ReconcileRoleOptions{Role: r, Client: in, Confirm: true}
			result, err := o.Run()
			return err == nil && result.Protected && result.Operation != reconciliation.ReconcileNone, err
		}))
	}
	binding := func(b reconciliation.RoleBinding, in reconciliation.RoleBindingModifier) {
		g.Go(retried(b, func() (bool, error) {
			o := reconciliation.ReconcileRoleBindingOptions{RoleBinding: b, Client: in, Confirm: true}
			result, err := o.Run()
			return err == nil && result.Protected && result.Operation != reconciliation.ReconcileNone, err
		}))
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		role(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}, reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()})
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		binding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b}, reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()})
	}
	for _, roles := range bootstrappolicy.NamespaceRoles() {
		for _, r := range roles {
			role(reconciliation.RoleRuleOwner{Role: &r}, reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces})
		}
	}
	for _, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range bindings {
			binding(reconciliation.RoleBindingAdapter{RoleBinding: &b}, reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces})
		}
	}
	return g.Wait()
}

// retried reconciles what, which somebody else may be writing. reconcile tells whether it left an object as it is that
// its owner protects (rbac.authorization.kubernetes.io/autoupdate) and that lacks permissions.
func retried(what interface{ GetName() string }, reconcile func() (isProtected bool, err error)) func() error {
	passing := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err) }
	return func() error {
		return retry.OnError(retry.DefaultBackoff, passing, func() error {
			isProtected, err := reconcile()
			if err != nil {
				return fmt.Errorf("reconcile %T %s: %w", what, what.GetName(), err)
			}
			if isProtected {
				klog.InfoS("A protected object of the RBAC policy lacks what it should allow", "type", fmt.Sprintf("%T", what), "name", what.GetName())
			}
			return nil
		})
	}
}

// makePriorityClasses makes the priority classes of system pods.
func makePriorityClasses(ctx context.Context, client kubernetes.Interface) error {
	for _, class := range schedulingapi.SystemPriorityClasses() {
		_, err := client.SchedulingV1().PriorityClasses().Get(ctx, class.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make priority class %s: %w", class.Name, err)
		}
	}
	return nil
}
