package controllermanager

import (
	"context"
	"fmt"
	"os"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	tokenscontroller "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// tokens is the controller that fills Secrets of type kubernetes.io/service-account-token.
type tokens struct {
	controller *tokenscontroller.TokensController
	workers    int
}

func (tokens) Name() string              { return names.ServiceAccountTokenController }
func (t tokens) Run(ctx context.Context) { t.controller.Run(ctx, t.workers) }

// newTokens follows newServiceAccountTokenController (cmd/kube-controller-manager/app/service_accounts.go:45), which is
// not exported.
func (c *Component) newTokens(ctx context.Context, cc app.ControllerContext) (app.Controller, error) {
	config := cc.ComponentConfig.SAController
	key, err := keyutil.PrivateKeyFromFile(config.ServiceAccountKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read service account key %s: %w", config.ServiceAccountKeyFile, err)
	}
	ca, err := os.ReadFile(config.RootCAFile)
	if err != nil {
		return nil, fmt.Errorf("read root CA: %w", err)
	}
	if _, err := certutil.ParseCertsPEM(ca); err != nil {
		return nil, fmt.Errorf("parse root CA %s: %w", config.RootCAFile, err)
	}
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return nil, fmt.Errorf("make service account token generator: %w", err)
	}
	controller, err := tokenscontroller.NewTokensController(klog.FromContext(ctx),
		cc.InformerFactory.Core().V1().ServiceAccounts(), cc.InformerFactory.Core().V1().Secrets(),
		cc.ClientBuilder.ClientOrDie("tokens-controller"),
		tokenscontroller.TokensControllerOptions{TokenGenerator: generator, RootCA: ca})
	if err != nil {
		return nil, fmt.Errorf("make service account token controller: %w", err)
	}
	return tokens{controller, int(config.ConcurrentSATokenSyncs)}, nil
}
