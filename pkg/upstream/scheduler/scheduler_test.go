package scheduler

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// badAPI gives a configuration that no client can be made of.
type badAPI struct{}

func (badAPI) ClientConfig(string, ...string) *rest.Config {
	return &rest.Config{Host: "https://127.0.0.1:1", TLSClientConfig: rest.TLSClientConfig{Insecure: true, CAData: []byte("x")}}
}

// TestAFailedStartLeavesNothing has two lives of a scheduler fail: the second for the same reason, and not because the
// first still holds what there is one of in a process.
func TestAFailedStartLeavesNothing(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	access := api.NewConfig()
	access.Clusters["c"] = &api.Cluster{Server: "https://127.0.0.1:1"}
	access.Contexts["c"] = &api.Context{Cluster: "c"}
	access.CurrentContext = "c"
	if err := clientcmd.WriteToFile(*access, kubeconfig); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Kubeconfig: kubeconfig}, badAPI{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := c.Run(context.Background(), func() { t.Error("it is ready") })
		if err == nil || !strings.Contains(err.Error(), "make kube-scheduler client: specifying a root certificates file with the insecure flag") {
			t.Errorf("ends with %v", err)
		}
	}
}
