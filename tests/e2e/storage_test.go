package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// claim asks for a local volume.
func (e *env) claim(name string, change func(*corev1.PersistentVolumeClaimSpec)) {
	e.t.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Mi")}}}}
	change(&c.Spec)
	_, err := e.client.CoreV1().PersistentVolumeClaims(e.ns).Create(e.ctx, c, metav1.CreateOptions{})
	e.must(err)
}

// using is a pod with a claim mounted at /data.
func using(name, claim string) *corev1.Pod {
	p := pod(name, idle("main"))
	p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
	return withVolume(p, "data", "/data", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}})
}

// volumeOf is the volume that a claim is bound to.
func (e *env) volumeOf(claim string) *corev1.PersistentVolume {
	e.t.Helper()
	c, err := e.client.CoreV1().PersistentVolumeClaims(e.ns).Get(e.ctx, claim, metav1.GetOptions{})
	e.must(err)
	pv, err := e.client.CoreV1().PersistentVolumes().Get(e.ctx, c.Spec.VolumeName, metav1.GetOptions{})
	e.must(err)
	return pv
}

// volumeGone waits until a PersistentVolume is no more.
func (e *env) volumeGone(name string) {
	e.t.Helper()
	e.eventually("volume "+name+" to go", func() error {
		_, err := e.client.CoreV1().PersistentVolumes().Get(e.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
}

func TestLocalStorage(t *testing.T) {
	e := inNamespace(t)
	e.claim("data", func(s *corev1.PersistentVolumeClaimSpec) {
		s.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	})
	p := using("writer", "data")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)}
	e.startPod(p)
	e.says("writer", "echo kept > /data/file && cat /data/file", "kept")
	pv := e.volumeOf("data")
	if pv.Spec.StorageClassName != "local-path" || pv.Spec.Local == nil {
		t.Fatalf("the volume is %+v", pv.Spec)
	}
	// What cannot be enforced is said so.
	if note := pv.Annotations["knarr.io/local-storage-capacity"]; note != "enforced" {
		if !strings.HasPrefix(note, "not enforced: ") {
			t.Errorf("the volume says of its capacity %q", note)
		}
		e.told("data", "CapacityNotEnforced", strings.TrimPrefix(note, "not enforced: "))
	}

	// One pod at a time.
	e.createPod(using("second", "data"))
	e.podUntil("second", "kept waiting", func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) > 0 && strings.Contains(p.Status.Conditions[0].Message, "ReadWriteOncePod")
	})
	e.mustKubectl("delete", "pod", "writer")
	e.podReady("second")
	e.says("second", "cat /data/file", "kept")

	// It grows while it is in use.
	e.mustKubectl("patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}`)
	e.eventually("the claim to have grown", func() error {
		c, err := e.client.CoreV1().PersistentVolumeClaims(e.ns).Get(e.ctx, "data", metav1.GetOptions{})
		if err == nil && c.Status.Capacity.Storage().String() != "128Mi" {
			err = fmt.Errorf("it has %v", c.Status.Capacity.Storage())
		}
		return err
	})
	if got := e.volumeOf("data").Spec.Capacity.Storage().String(); got != "128Mi" {
		t.Errorf("the volume has %s", got)
	}
	e.eventually("the kubelet to tell how full the volume is", func() error { return e.volumeStats("data") })

	// Claim and data go together.
	e.mustKubectl("delete", "pod", "second")
	e.mustKubectl("delete", "pvc", "data")
	e.volumeGone(pv.Name)
	e.eventually("the directory to go", func() error {
		_, err := e.host.Exec(e.ctx, "test", "!", "-e", pv.Spec.Local.Path)
		return err
	})
}

// volumeStats asks the kubelet for the figures of a claim's volume.
func (e *env) volumeStats(claim string) error {
	out, err := e.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", e.host.Name(), "proxy/stats/summary").DoRaw(e.ctx)
	if err != nil {
		return err
	}
	var summary struct {
		Pods []struct {
			Volume []struct {
				CapacityBytes, UsedBytes int64
				PVCRef                   struct{ Name, Namespace string }
			}
		}
	}
	if err := json.Unmarshal(out, &summary); err != nil {
		return err
	}
	for _, p := range summary.Pods {
		for _, v := range p.Volume {
			if v.PVCRef.Name == claim && v.PVCRef.Namespace == e.ns && v.CapacityBytes > 0 {
				return nil
			}
		}
	}
	return errors.New("it does not yet")
}

func TestLocalStorageRetain(t *testing.T) {
	e := inNamespace(t)
	class := "retain-" + e.ns
	e.apply(`{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: ` + class + `},
provisioner: knarr.io/local-path, reclaimPolicy: Retain, volumeBindingMode: WaitForFirstConsumer}`)
	t.Cleanup(func() { e.mustClean("storageclass", class) })
	e.claim("kept", func(s *corev1.PersistentVolumeClaimSpec) { s.StorageClassName = &class })
	e.startPod(using("writer", "kept"))
	e.says("writer", "echo kept > /data/file && cat /data/file", "kept")
	pv := e.volumeOf("kept")
	e.mustKubectl("delete", "pod", "writer")
	e.mustKubectl("delete", "pvc", "kept")
	e.eventually("the volume to be released", func() error {
		got, err := e.client.CoreV1().PersistentVolumes().Get(e.ctx, pv.Name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.VolumeReleased {
			err = fmt.Errorf("it is %s", got.Status.Phase)
		}
		return err
	})
	e.mustKubectl("delete", "pv", pv.Name)
	e.volumeGone(pv.Name)
	if b, err := e.host.ReadFile(pv.Spec.Local.Path + "/file"); err != nil || string(b) != "kept\n" {
		t.Errorf("the host has %q, %v", b, err)
	}
}

// mustClean deletes an object without namespace that a test has made.
func (e *env) mustClean(kind, name string) {
	if out, err := e.host.Exec(context.Background(), append(append([]string{}, e.kubectl...), "delete", kind, name)...); err != nil {
		e.t.Errorf("delete %s %s: %v\n%s", kind, name, err, out)
	}
}

func TestLocalStorageRefuses(t *testing.T) {
	e := inNamespace(t)
	e.claim("block", func(s *corev1.PersistentVolumeClaimSpec) { s.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })
	p := pod("raw", idle("main"))
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "block"}}}}
	p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/raw"}}
	e.createPod(p)
	e.told("block", "ProvisioningFailed", "volumeMode Block is not supported")
	e.claim("shared", func(s *corev1.PersistentVolumeClaimSpec) {
		s.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	})
	e.createPod(using("sharing", "shared"))
	e.told("shared", "ProvisioningFailed", "access mode ReadWriteMany is not supported")
}
