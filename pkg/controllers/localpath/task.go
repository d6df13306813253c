package localpath

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Reasons of events; the first three are those of all provisioners.
const (
	reasonProvisioned   = "ProvisioningSucceeded"
	reasonNotMade       = "ProvisioningFailed"
	reasonNotDeleted    = "VolumeFailedDelete"
	reasonNotResized    = "VolumeResizeFailed"
	reasonResized       = "VolumeResizeSuccessful"
	reasonNotEnforced   = "CapacityNotEnforced"
	reasonLeftBehind    = "VolumeLeftBehind"
	reasonNodeIsMissing = "NodeMissing"
)

// subject is what events are about.
type subject interface {
	runtime.Object
	metav1.Object
}

// task is what one volume needs of its node, and what follows when that is done.
type task struct {
	order   Order
	subject subject
	failure string // the event's reason while the node fails
	finish  func(ctx context.Context, node *corev1.Node, a Answer) error
	// without is what happens when there is no such node any more; nil for nothing.
	without func(ctx context.Context) error
}

// tasks are what claims and volumes of a node want, by the name of the volume. What needs no node is done on the way.
func (r *run) tasks(ctx context.Context, node string) (map[string]task, error) {
	tasks := make(map[string]task)
	volumes, err := r.volumes.ByIndex(byNode, node)
	if err != nil {
		return nil, fmt.Errorf("list volumes of node %s: %w", node, err)
	}
	for _, obj := range volumes {
		pv, ok := obj.(*corev1.PersistentVolume)
		if !ok {
			continue
		}
		t, err := r.ofVolume(ctx, node, pv)
		if err != nil {
			return nil, err
		}
		if t != nil {
			tasks[pv.Name] = *t
		}
	}
	claims, err := r.claims.ByIndex(byNode, node)
	if err != nil {
		return nil, fmt.Errorf("list claims of node %s: %w", node, err)
	}
	for _, obj := range claims {
		claim, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok {
			continue
		}
		if t := r.ofClaim(claim); t != nil {
			tasks[nameFor(claim)] = *t
		}
	}
	for volume, o := range r.settled {
		if tasks[volume].order == o {
			delete(tasks, volume) // the informer is behind
		} else {
			delete(r.settled, volume)
		}
	}
	return tasks, nil
}

// ofClaim is the task of a claim that waits for its volume, nil for none.
func (r *run) ofClaim(claim *corev1.PersistentVolumeClaim) *task {
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
		return nil
	}
	class, err := r.classes.Get(*claim.Spec.StorageClassName)
	if err != nil || !provisioner(class.Provisioner) {
		return nil
	}
	if _, there, err := r.volumes.GetByKey(nameFor(claim)); err != nil || there {
		return nil // about to be bound
	}
	if problem := refusal(claim, class); problem != "" {
		r.tell(nodeOfClaim(claim), claim, corev1.EventTypeWarning, reasonNotMade, problem)
		return nil
	}
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return &task{
		order: Order{Op: Create, Bytes: size.Value()}, subject: claim, failure: reasonNotMade,
		finish: func(ctx context.Context, node *corev1.Node, a Answer) error {
			return r.createVolume(ctx, claim, class, node, a)
		},
		without: func(ctx context.Context) error { return r.unselect(ctx, claim) },
	}
}

// ofVolume is the task of a volume that is to go or to grow, nil for none.
func (r *run) ofVolume(ctx context.Context, node string, pv *corev1.PersistentVolume) (*task, error) {
	switch {
	case !finalized(pv):
		return nil, nil // not ours, or let go
	case unused(pv) && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return &task{
			order: Order{Op: Delete}, subject: pv, failure: reasonNotDeleted,
			finish: func(ctx context.Context, _ *corev1.Node, _ Answer) error { return r.release(ctx, pv) },
			without: func(ctx context.Context) error {
				r.tell(node, pv, corev1.EventTypeWarning, reasonLeftBehind, fmt.Sprintf("node %s is no longer in the cluster; the data stays on its disk, in %s", node, pv.Spec.Local.Path))
				return r.release(ctx, pv)
			},
		}, nil
	case unused(pv) && pv.DeletionTimestamp != nil:
		return nil, r.release(ctx, pv) // Retain: the directory stays
	}
	return r.growth(pv), nil
}

// growth is the task of a volume whose claim asks for more, nil for none.
func (r *run) growth(pv *corev1.PersistentVolume) *task {
	claim := r.claimOf(pv)
	if claim == nil || pv.DeletionTimestamp != nil {
		return nil
	}
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound || want.Cmp(have) <= 0 {
		return nil
	}
	return &task{
		order: Order{Op: Resize, Bytes: want.Value()}, subject: claim, failure: reasonNotResized,
		finish: func(ctx context.Context, _ *corev1.Node, a Answer) error { return r.grow(ctx, pv, claim, want, a) },
	}
}

// claimOf is the claim that pv is bound to, nil when it is not.
func (r *run) claimOf(pv *corev1.PersistentVolume) *corev1.PersistentVolumeClaim {
	ref := pv.Spec.ClaimRef
	if ref == nil || pv.Status.Phase != corev1.VolumeBound {
		return nil
	}
	obj, there, err := r.claims.GetByKey(ref.Namespace + "/" + ref.Name)
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if err != nil || !there || !ok || claim.UID != ref.UID || claim.Spec.VolumeName != pv.Name {
		return nil
	}
	return claim
}

// giveUp lets go what waits for a node that is not in the cluster.
func (r *run) giveUp(ctx context.Context, node string, tasks map[string]task) error {
	for name, t := range tasks {
		if t.without == nil {
			r.tell(node, t.subject, corev1.EventTypeWarning, reasonNodeIsMissing, fmt.Sprintf("node %s is not in the cluster", node))
			continue
		}
		if err := t.without(ctx); err != nil {
			return err
		}
		r.settled[name] = t.order
	}
	return nil
}

// provisioner tells whether a class is ours; the second name is the one that users of k3s have in their manifests.
func provisioner(name string) bool { return name == Provisioner || name == "rancher.io/local-path" }

// refusal is why a claim gets no volume, "" when it does.
func refusal(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	if claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return "volumeMode Block is not supported: local storage has directories, not devices; use volumeMode Filesystem"
	}
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Sprintf("access mode %s is not supported: local storage is on one node; use ReadWriteOnce or ReadWriteOncePod", mode)
		}
	}
	if claim.Spec.Selector != nil {
		return "a selector is not supported: volumes are made for their claim"
	}
	if claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil {
		return "a data source is not supported: volumes begin empty"
	}
	for name := range class.Parameters {
		return fmt.Sprintf("StorageClass %s has the parameter %q: local storage has none", class.Name, name)
	}
	return ""
}

// nodeOfClaim is the node that the scheduler has chosen, or the one that the volume is on.
func nodeOfClaim(obj any) string {
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return ""
	}
	return claim.Annotations[annSelectedNode]
}

func nodeOfVolume(obj any) string {
	pv, ok := obj.(*corev1.PersistentVolume)
	if !ok || pv.Spec.Local == nil {
		return ""
	}
	return pv.Annotations[AnnotationNode]
}

func nodeItself(obj any) string {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return ""
	}
	return n.Name
}

// unused tells whether nobody can have pv mounted.
func unused(pv *corev1.PersistentVolume) bool {
	switch pv.Status.Phase {
	case corev1.VolumeReleased, corev1.VolumeFailed:
		return true
	case corev1.VolumeAvailable, corev1.VolumePending:
		return pv.DeletionTimestamp != nil
	}
	return false
}

func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }
