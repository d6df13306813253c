package apiserver

import (
	"context"
	"errors"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
)

// Each role and binding of upstream's is made; one that is there is completed, and one that its owner protects is left.
func TestMakePolicy(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset(
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "view", Labels: map[string]string{"mine": "yes"}}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:node", Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}}},
	)
	for range 2 {
		if err := makePolicy(ctx, client); err != nil {
			t.Fatal(err)
		}
	}
	roles, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]rbacv1.ClusterRole{}
	for _, r := range roles.Items {
		byName[r.Name] = r
	}
	for _, name := range []string{"cluster-admin", "system:kube-scheduler", "system:controller:node-controller", "system:aggregate-to-view"} {
		if _, ok := byName[name]; !ok {
			t.Errorf("there is no ClusterRole %s among %d", name, len(byName))
		}
	}
	if v := byName["view"]; v.AggregationRule == nil || v.Labels["mine"] != "yes" {
		t.Errorf("view was not completed, or lost its label: %+v", v)
	}
	if n := byName["system:node"]; len(n.Rules) != 0 {
		t.Errorf("the protected system:node was changed: %+v", n.Rules)
	}
	binding, err := client.RbacV1().RoleBindings("kube-system").Get(ctx, "system::leader-locking-kube-scheduler", metav1.GetOptions{})
	if err != nil || len(binding.Subjects) == 0 {
		t.Errorf("binding in a namespace: %v, %v", binding, err)
	}
}

func TestMakePolicyFails(t *testing.T) {
	client := fake.NewClientset()
	broken := errors.New("the datastore is away")
	client.PrependReactor("create", "clusterrolebindings", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, broken })
	if err := makePolicy(t.Context(), client); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v: upstream's hook would not be called", err, broken)
	}
}

func TestMakePriorityClasses(t *testing.T) {
	client := fake.NewClientset()
	for range 2 {
		if err := makePriorityClasses(context.Background(), client); err != nil {
			t.Fatal(err)
		}
	}
	class, err := client.SchedulingV1().PriorityClasses().Get(t.Context(), "system-node-critical", metav1.GetOptions{})
	if err != nil || class.Value != 2000001000 {
		t.Errorf("got %+v, %v", class, err)
	}
}

func TestSlowHooksAreTaken(t *testing.T) {
	config := &genericapiserver.Config{DisabledPostStartHooks: sets.NewString("another")}
	taken, err := takeSlowHooks(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes"} {
		if taken[name] == nil || !config.DisabledPostStartHooks.Has(name) {
			t.Errorf("%s is not replaced: %v", name, config.DisabledPostStartHooks)
		}
	}
	if len(taken) != 2 {
		t.Errorf("%d hooks are replaced, want 2", len(taken))
	}
}

func TestSlowHookRunsOnlyAfterAFailure(t *testing.T) {
	for _, failure := range []error{nil, errors.New("the datastore is away")} {
		var slow bool
		hook := firstTry("test", func(context.Context, kubernetes.Interface) error { return failure },
			func(genericapiserver.PostStartHookContext) error { slow = true; return nil })
		if err := hook(genericapiserver.PostStartHookContext{Context: t.Context(), LoopbackClientConfig: &rest.Config{}}); err != nil {
			t.Fatal(err)
		}
		if slow != (failure != nil) {
			t.Errorf("after %v upstream's hook ran: %v", failure, slow)
		}
	}
}
