package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/images"
	"github.com/knarr-io/knarr/tests/lab"
)

// TestBatteries is a site in one file that is there before the first start: all of it works, without any network, and all
// of it goes with the file.
func TestBatteries(t *testing.T) {
	s := own(t, "batteries", lab.Options{})
	ca, cert, key := certificatesFor(t, "site.example.com")
	text, err := os.ReadFile("testdata/site.yaml")
	must(t, err)
	must(t, s.Host.WriteFile(filepath.Join(cluster.DataDir, "server/manifests/site.yaml"), []byte(strings.NewReplacer(
		"TLS_CRT", base64.StdEncoding.EncodeToString(cert), "TLS_KEY", base64.StdEncoding.EncodeToString(key),
		"BUSYBOX", images.Busybox, "SERVER", images.Server).Replace(string(text))), 0o600))
	start := time.Now()
	must(t, s.Start())
	c, err := s.WaitAPI(t.Context())
	must(t, err)
	f := &front{env: place(t, s, c), visitor: suite.lab.Host(t, "caller", lab.Options{}), ca: ca}
	f.ns = "site"

	f.serves("https://site.example.com/env?name=WHO", "the site")
	f.eventually("the diary to be written", func() error {
		out, err := f.inPod("diary-0", "cat /diary/page")
		if err == nil && out != "first" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	f.eventually("the name of the Service to be known", func() error {
		_, err := f.inPod("diary-0", "nslookup web.site.svc.cluster.local")
		return err
	})
	f.eventually("the diary to be closed to others", f.closed)
	f.eventually("the autoscaler to know what the site needs", f.scales)
	t.Logf("all of it works %v after the start", time.Since(start).Round(time.Millisecond))

	awaitAddon(t, c, "site", "Ready", "")
	f.mustKubectl("delete", "pod", "diary-0")
	f.eventually("the next pod to have the same diary", func() error {
		out, err := f.inPod("diary-0", "cat /diary/page")
		if err == nil && out != "first\nfirst" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	removeManifest(t, s.Host, "site.yaml")
	awaitNoAddon(t, c, "site")
	f.eventually("everything to be gone", f.gone)
}

// closed is nil when the policy keeps the site's own pods away from the diary.
func (f *front) closed() error {
	diary, err := f.client.CoreV1().Pods(f.ns).Get(f.ctx, "diary-0", metav1.GetOptions{})
	if err != nil {
		return err
	}
	web, err := f.client.CoreV1().Pods(f.ns).List(f.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil || len(web.Items) == 0 {
		return errors.Join(err, errors.New("nobody is there to ask"))
	}
	url := "http://" + diary.Status.PodIP + ":8080/page"
	if _, err := get(f.host, url); err != nil {
		return fmt.Errorf("it does not answer its own node: %w", err)
	}
	if f.asks(web.Items[0].Name, url)() == nil {
		return errors.New("it answers other pods")
	}
	return nil
}

// scales is nil when the autoscaler has metrics.
func (f *front) scales() error {
	h, err := f.client.AutoscalingV2().HorizontalPodAutoscalers(f.ns).Get(f.ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range h.Status.Conditions {
		if c.Type == "ScalingActive" && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("its conditions are %v", h.Status.Conditions)
}

// gone is nil when nothing of the site is left.
func (f *front) gone() error {
	_, err := f.client.CoreV1().Namespaces().Get(f.ctx, f.ns, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return errors.Join(err, errors.New("the namespace is there"))
	}
	volumes, err := f.client.CoreV1().PersistentVolumes().List(f.ctx, metav1.ListOptions{})
	if err == nil && len(volumes.Items) > 0 {
		err = fmt.Errorf("%d volumes are there", len(volumes.Items))
	}
	return err
}
