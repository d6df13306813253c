package localpath

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/bed/api"
)

// cluster is a fake API, our controller, and nodes with our keepers. The test does what upstream's controllers do.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
	quotas map[string]*fakeQuota
	roots  map[string]string
}

func start(t *testing.T, objects ...runtime.Object) *cluster {
	t.Helper()
	b := &cluster{t, fake.NewClientset(objects...), map[string]*fakeQuota{}, map[string]string{}}
	bed.Run(t, New(b.api(), api.Informers(t, b.client), slog.New(slog.DiscardHandler)))
	return b
}

func (b *cluster) api() func() (kubernetes.Interface, error) { return api.Client(b.client) }

// keeper runs what a node runs.
func (b *cluster) keeper(node string) (stop func()) {
	b.t.Helper()
	if b.quotas[node] == nil {
		b.quotas[node], b.roots[node] = newFakeQuota(), b.t.TempDir()
	}
	k := NewKeeper(node, b.roots[node], b.api(), slog.New(slog.DiscardHandler))
	k.volumes.quota = b.quotas[node]
	return bed.Run(b.t, k)
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: "host-" + name}}}
}

func testClass(policy corev1.PersistentVolumeReclaimPolicy) *storagev1.StorageClass {
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: Provisioner, ReclaimPolicy: &policy, VolumeBindingMode: &wait}
}

// testClaim is one that the scheduler has placed on node. Its volume is volumeA.
func testClaim(node, size string) *corev1.PersistentVolumeClaim {
	class := "local-path"
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: types.UID(strings.TrimPrefix(volumeA, "pvc-")), Annotations: map[string]string{annSelectedNode: node}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}},
	}
}

// volume waits for the PersistentVolume of the claim.
func (b *cluster) volume() *corev1.PersistentVolume {
	b.t.Helper()
	var pv *corev1.PersistentVolume
	bed.Eventually(b.t, "the volume", func() (err error) {
		pv, err = b.client.CoreV1().PersistentVolumes().Get(b.t.Context(), volumeA, metav1.GetOptions{})
		return err
	})
	return pv
}

// bind does what upstream's controller does with a claim and its volume.
func (b *cluster) bind() {
	b.t.Helper()
	pv := b.volume().DeepCopy()
	pv.Status.Phase = corev1.VolumeBound
	_, err := b.client.CoreV1().PersistentVolumes().Update(b.t.Context(), pv, metav1.UpdateOptions{})
	b.must(err)
	claims := b.client.CoreV1().PersistentVolumeClaims("ns")
	claim, err := claims.Get(b.t.Context(), "claim", metav1.GetOptions{})
	b.must(err)
	claim = claim.DeepCopy()
	claim.Spec.VolumeName = volumeA
	claim.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: pv.Spec.Capacity}
	_, err = claims.Update(b.t.Context(), claim, metav1.UpdateOptions{})
	b.must(err)
}

// unbind does what happens when a claim is deleted.
func (b *cluster) unbind() {
	b.t.Helper()
	b.must(b.client.CoreV1().PersistentVolumeClaims("ns").Delete(b.t.Context(), "claim", metav1.DeleteOptions{}))
	pv := b.volume().DeepCopy()
	pv.Status.Phase = corev1.VolumeReleased
	_, err := b.client.CoreV1().PersistentVolumes().Update(b.t.Context(), pv, metav1.UpdateOptions{})
	b.must(err)
}

func (b *cluster) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// there waits until a directory of a node is there, or is not.
func (b *cluster) there(node string, want bool) {
	b.t.Helper()
	v := volumes{root: b.roots[node]}
	bed.Eventually(b.t, fmt.Sprintf("the directory on %s to be there: %v", node, want), func() error {
		_, err := os.Stat(v.path(volumeA))
		if (err == nil) != want {
			return fmt.Errorf("it is not so: %w", err)
		}
		return nil
	})
}

// quiet waits until there are no orders and answers on a node.
func (b *cluster) quiet(node string) {
	b.t.Helper()
	bed.Eventually(b.t, "the annotations of node "+node+" to be empty", func() error {
		n, err := b.client.CoreV1().Nodes().Get(b.t.Context(), node, metav1.GetOptions{})
		if err == nil && len(n.Annotations) > 0 {
			err = fmt.Errorf("they are %v", n.Annotations)
		}
		return err
	})
}

// told waits for an event that contains text.
func (b *cluster) told(reason, text string) {
	b.t.Helper()
	api.Told(b.t, b.client, reason, text)
}

func TestProvisionResizeDelete(t *testing.T) {
	b := start(t, testNode("a"), testNode("b"), testClass(corev1.PersistentVolumeReclaimDelete), testClaim("a", "1Gi"))
	b.keeper("b")
	b.keeper("a")
	pv := b.volume()
	if pv.Spec.Local.Path != b.roots["a"]+"/"+volumeA || pv.Spec.ClaimRef.UID+pv.UID != types.UID(strings.TrimPrefix(volumeA, "pvc-")) ||
		pv.Annotations[AnnotationCapacity] != "enforced" || pv.Spec.Capacity.Storage().String() != "1Gi" ||
		pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "host-a" || !slices.Equal(pv.Finalizers, []string{finalizer}) {
		t.Errorf("the volume is %+v", pv)
	}
	b.bind()
	b.quiet("a")
	b.there("a", true)
	b.told(reasonProvisioned, "on node a")

	claims := b.client.CoreV1().PersistentVolumeClaims("ns")
	_, err := claims.Patch(t.Context(), "claim", types.MergePatchType, []byte(`{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}`), metav1.PatchOptions{})
	b.must(err)
	bed.Eventually(b.t, "the claim to have grown", func() error {
		c, err := claims.Get(t.Context(), "claim", metav1.GetOptions{})
		if err == nil && c.Status.Capacity.Storage().String() != "3Gi" {
			err = fmt.Errorf("it has %v", c.Status.Capacity)
		}
		return err
	})
	if got, limit := b.volume().Spec.Capacity.Storage().String(), b.quotas["a"].limits[firstProject]; got != "3Gi" || limit != 3<<30 {
		t.Errorf("the volume has %s, its limit is %d", got, limit)
	}
	b.quiet("a")

	b.unbind()
	b.there("a", false)
	bed.Eventually(b.t, "the volume to go", func() error {
		_, err := b.client.CoreV1().PersistentVolumes().Get(t.Context(), volumeA, metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
	b.quiet("a")
	if entries, err := os.ReadDir(b.roots["b"]); err != nil || len(entries) > 0 {
		t.Errorf("on node b there are %v, %v", entries, err)
	}
}

func TestRetain(t *testing.T) {
	b := start(t, testNode("a"), testClass(corev1.PersistentVolumeReclaimRetain), testClaim("a", "1Gi"))
	b.keeper("a")
	b.volume()
	b.bind()
	b.unbind()
	b.quiet("a")
	pv := b.volume().DeepCopy()
	// The API marks a volume that has a finalizer as deleted; the fake one would remove it.
	now := metav1.Now()
	pv.DeletionTimestamp = &now
	_, err := b.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
	b.must(err)
	bed.Eventually(b.t, "the volume to be let go", func() error {
		got, err := b.client.CoreV1().PersistentVolumes().Get(t.Context(), volumeA, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && finalized(got) {
			err = errors.New("it has its finalizer")
		}
		return err
	})
	b.there("a", true)
}

// A node that ended after it made the directory goes on where it was.
func TestNodeComesBack(t *testing.T) {
	b := start(t, testNode("a"), testClass(corev1.PersistentVolumeReclaimDelete), testClaim("a", "1Gi"))
	bed.Eventually(b.t, "an order", func() error {
		n, err := b.client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		if err == nil && len(parse[Order](n, AnnotationOrders)) != 1 {
			err = errors.New("none yet")
		}
		return err
	})
	stop := b.keeper("a")
	b.volume()
	stop()
	b.bind()
	b.keeper("a")
	b.quiet("a")
	b.there("a", true)
}

// A claim that goes away before it has its volume leaves no directory.
func TestClaimGoesAway(t *testing.T) {
	b := start(t, testNode("a"), testClass(corev1.PersistentVolumeReclaimDelete), testClaim("a", "1Gi"))
	b.quotas["a"], b.roots["a"] = newFakeQuota(), t.TempDir()
	b.quotas["a"].off = errors.New("the disk is broken")
	b.keeper("a")
	b.told(reasonNotMade, "on node a: the disk is broken")
	b.there("a", true)
	b.must(b.client.CoreV1().PersistentVolumeClaims("ns").Delete(t.Context(), "claim", metav1.DeleteOptions{}))
	b.there("a", false)
	b.quiet("a")
}

func TestNodeIsGone(t *testing.T) {
	b := start(t, testClass(corev1.PersistentVolumeReclaimDelete), testClaim("gone", "1Gi"))
	bed.Eventually(b.t, "another choice to be possible", func() error {
		c, err := b.client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "claim", metav1.GetOptions{})
		if err == nil && c.Annotations[annSelectedNode] != "" {
			err = errors.New("the choice stands")
		}
		return err
	})
}

func TestRefusals(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	tests := map[string]struct {
		change func(*corev1.PersistentVolumeClaim, *storagev1.StorageClass)
		want   string
	}{
		"block": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) { c.Spec.VolumeMode = &block }, "volumeMode Block is not supported"},
		"many": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}
		}, "access mode ReadWriteMany is not supported"},
		"selector": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.Selector = &metav1.LabelSelector{}
		}, "a selector is not supported"},
		"source": {func(c *corev1.PersistentVolumeClaim, _ *storagev1.StorageClass) {
			c.Spec.DataSource = &corev1.TypedLocalObjectReference{}
		}, "a data source is not supported"},
		"parameter": {func(_ *corev1.PersistentVolumeClaim, s *storagev1.StorageClass) {
			s.Parameters = map[string]string{"nodePath": "/x"}
		}, `has the parameter "nodePath"`},
		"immediate": {func(c *corev1.PersistentVolumeClaim, s *storagev1.StorageClass) {
			c.Annotations, s.VolumeBindingMode = nil, nil
		}, "must have the volumeBindingMode WaitForFirstConsumer"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			claim, class := testClaim("a", "1Gi"), testClass(corev1.PersistentVolumeReclaimDelete)
			tt.change(claim, class)
			b := start(t, testNode("a"), class, claim)
			b.told(reasonNotMade, tt.want)
			b.quiet("a")
		})
	}
}

func TestProvisioners(t *testing.T) {
	for name, want := range map[string]bool{Provisioner: true, "rancher.io/local-path": true, "ebs.csi.aws.com": false, "": false} {
		if provisioner(name) != want {
			t.Errorf("%q: want %v", name, want)
		}
	}
}

// A node that names a place that cannot be a volume's is not believed.
func TestLyingNode(t *testing.T) {
	for _, path := range []string{"", "storage/" + volumeA, "/etc", "/x/../" + volumeA, "/x/" + volumeB} {
		r := &run{}
		err := r.createVolume(t.Context(), testClaim("a", "1Gi"), testClass(corev1.PersistentVolumeReclaimDelete), testNode("a"), Answer{Path: path})
		if err == nil || !strings.Contains(err.Error(), "which cannot be") {
			t.Errorf("%q: %v", path, err)
		}
	}
}
