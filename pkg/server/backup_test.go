package server

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/pkg/backup"
)

// secretPlace is the place of a server that is told the name of a Secret, with some objects in kube-system.
func secretPlace(t *testing.T, secret map[string]string, bundle map[string]string) backup.Place {
	t.Helper()
	client := fake.NewClientset()
	core := client.CoreV1()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "kube-system"} }
	if secret != nil {
		data := map[string][]byte{}
		for k, v := range secret {
			data[k] = []byte(v)
		}
		if _, err := core.Secrets("kube-system").Create(t.Context(), &corev1.Secret{ObjectMeta: meta("s3"), Data: data}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if bundle != nil {
		if _, err := core.ConfigMaps("kube-system").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta("ca"), Data: bundle}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := given(t, "data-dir="+t.TempDir(), "etcd-s3=true", "etcd-s3-config-secret=s3")
	return BackupPlace(p.Server, func() (kubernetes.Interface, error) { return client, nil })
}

// TestPlaceFromASecret reads one as k3s's users have it.
func TestPlaceFromASecret(t *testing.T) {
	place := secretPlace(t, map[string]string{
		"etcd-s3-endpoint": "s3.example.com:9000", "etcd-s3-endpoint-ca": "inline", "etcd-s3-endpoint-ca-name": "ca",
		"etcd-s3-skip-ssl-verify": "false", "etcd-s3-access-key": "key", "etcd-s3-secret-key": "hidden", "etcd-s3-bucket": "bucket",
		"etcd-s3-folder": "one", "etcd-s3-region": "", "etcd-s3-insecure": "true", "etcd-s3-timeout": "90s", "etcd-s3-proxy": "",
		"backup-s3-retention": "7",
	}, map[string]string{"b": "second", "a": "first"})
	got, err := place.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ca := string(got.CA); ca != "inline\nfirst\nsecond\n" {
		t.Errorf("CA certificates: %q", ca)
	}
	got.CA = nil
	want := backup.S3{
		Endpoint: "s3.example.com:9000", Bucket: "bucket", Folder: "one", Region: "us-east-1", AccessKey: "key", SecretKey: "hidden",
		Insecure: true, Lookup: "auto", Timeout: 90 * time.Second, Keep: 7,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPlaceFromABadSecret(t *testing.T) {
	for name, c := range map[string]struct {
		secret map[string]string
		says   string
	}{
		"missing":        {nil, "kube-system/s3"},
		"without bucket": {map[string]string{"etcd-s3-folder": "x"}, "has no backup-s3-bucket"},
		"bad value":      {map[string]string{"etcd-s3-bucket": "bucket", "etcd-s3-timeout": "soon"}, "etcd-s3-timeout \"soon\""},
		"unknown key":    {map[string]string{"etcd-s3-bucket": "bucket", "etcd-s3-bukket": "x"}, "etcd-s3-bukket: unknown key"},
		"missing CA":     {map[string]string{"etcd-s3-bucket": "bucket", "etcd-s3-endpoint-ca-name": "gone"}, "kube-system/gone"},
		"half a login":   {map[string]string{"etcd-s3-bucket": "bucket", "etcd-s3-access-key": "x"}, "go together"},
	} {
		if _, err := secretPlace(t, c.secret, nil).Remote(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want something of %q", name, err, c.says)
		}
	}
	if _, err := noAPI(); err == nil || !strings.Contains(err.Error(), "--backup-s3") {
		t.Errorf("without an API: %v", err)
	}
	p := given(t, "data-dir="+t.TempDir(), "backup-s3=true", "backup-s3-config-secret=s3")
	down := errors.New("the cluster is down")
	place := BackupPlace(p.Server, func() (kubernetes.Interface, error) { return nil, down })
	if _, err := place.Remote(t.Context()); !errors.Is(err, down) {
		t.Errorf("with the cluster down: %v", err)
	}
}
