package controllermanager

import (
	"fmt"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/controller-manager/pkg/clientbuilder"
)

// rootUser is kube-controller-manager itself.
const rootUser = "system:kube-controller-manager"

// namespace is where the controllers' service accounts are, as far as their names go.
const namespace = "kube-system"

// builder gives each controller a client with the identity of its service account, as upstream does with
// --use-service-account-credentials, but without service accounts, tokens and their renewal: the identity is asserted
// in-process.
type builder struct{ api API }

var _ clientbuilder.ControllerClientBuilder = builder{}

// Config has no error: nothing is read.
func (b builder) Config(name string) (*rest.Config, error) {
	groups := serviceaccount.MakeGroupNames(namespace)
	return rest.AddUserAgent(b.api.ClientConfig(serviceaccount.MakeUsername(namespace, name), groups...), name), nil
}

func (b builder) Client(name string) (kubernetes.Interface, error) {
	config, err := b.Config(name)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of controller %s: %w", name, err)
	}
	return client, nil
}

func (b builder) DiscoveryClient(name string) (discovery.DiscoveryInterface, error) {
	client, err := b.Client(name)
	if err != nil {
		return nil, err
	}
	return client.Discovery(), nil
}

// The OrDie forms panic, which ends the component, instead of ending the process.

func (b builder) ConfigOrDie(name string) *rest.Config         { return must(b.Config(name)) }
func (b builder) ClientOrDie(name string) kubernetes.Interface { return must(b.Client(name)) }
func (b builder) DiscoveryClientOrDie(name string) discovery.DiscoveryInterface {
	return must(b.DiscoveryClient(name))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
