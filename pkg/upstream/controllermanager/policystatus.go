package controllermanager

import (
	"context"
	"fmt"
	"sync"

	apiextensionsscheme "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/scheme"
	"k8s.io/apimachinery/pkg/runtime/schema"
	pluginpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	k8sscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/validatingadmissionpolicystatus"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// policyStatus is the controller that checks the types in ValidatingAdmissionPolicies.
type policyStatus struct {
	controller *validatingadmissionpolicystatus.Controller
	workers    int
}

func (policyStatus) Name() string              { return names.ValidatingAdmissionPolicyStatusController }
func (p policyStatus) Run(ctx context.Context) { p.controller.Run(ctx, p.workers) }

// newPolicyStatus follows newValidatingAdmissionPolicyStatusController
// (cmd/kube-controller-manager/app/validatingadmissionpolicystatus.go:41), but makes the definitions of all types (10 MB)
// for the first policy there is and not at the start.
func newPolicyStatus(_ context.Context, cc app.ControllerContext) (app.Controller, error) {
	const name = names.ValidatingAdmissionPolicyStatusController
	discovery, err := cc.ClientBuilder.DiscoveryClient(name)
	if err != nil {
		return nil, fmt.Errorf("make discovery client for %s: %w", name, err)
	}
	client, err := cc.NewClient(name)
	if err != nil {
		return nil, err
	}
	controller, err := validatingadmissionpolicystatus.NewController(
		cc.InformerFactory.Admissionregistration().V1().ValidatingAdmissionPolicies(),
		client.AdmissionregistrationV1().ValidatingAdmissionPolicies(),
		&pluginpolicy.TypeChecker{
			SchemaResolver: lazyResolver(sync.OnceValue(func() resolver.SchemaResolver {
				return resolver.NewDefinitionsSchemaResolver(openapi.GetOpenAPIDefinitions, k8sscheme.Scheme, apiextensionsscheme.Scheme).
					Combine(&resolver.ClientDiscoveryResolver{Discovery: discovery})
			})),
			RestMapper: cc.RESTMapper,
		})
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return policyStatus{controller, int(cc.ComponentConfig.ValidatingAdmissionPolicyStatusController.ConcurrentPolicySyncs)}, nil
}

// lazyResolver is a resolver that is made when it is first asked.
type lazyResolver func() resolver.SchemaResolver

// ResolveSchema finds the schema of a kind.
func (l lazyResolver) ResolveSchema(gvk schema.GroupVersionKind) (*spec.Schema, error) {
	return l().ResolveSchema(gvk)
}
