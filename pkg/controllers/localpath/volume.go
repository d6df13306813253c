package localpath

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Provisioner is the name in a StorageClass.
	Provisioner = "knarr.io/local-path"
	// AnnotationNode on a PersistentVolume is the node that the volume is on.
	AnnotationNode = "knarr.io/local-storage-node"
	// AnnotationCapacity on a PersistentVolume tells whether its size is enforced.
	AnnotationCapacity = "knarr.io/local-storage-capacity"
	// finalizer keeps a PersistentVolume until its directory is gone or is to stay.
	finalizer = "knarr.io/local-storage"

	// Upstream's, from k8s.io/component-helpers/storage/volume/pv_helpers.go:51 and :62.
	annSelectedNode  = "volume.kubernetes.io/selected-node"
	annProvisionedBy = "pv.kubernetes.io/provisioned-by"
)

// nameFor is the name of the volume of a claim, of its directory too. It has nothing of what users may choose.
func nameFor(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// createVolume makes the PersistentVolume of a directory that is there.
func (r *run) createVolume(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, a Answer) error {
	if !filepath.IsAbs(a.Path) || filepath.Clean(a.Path) != a.Path || filepath.Base(a.Path) != nameFor(claim) {
		return fmt.Errorf("node %s says that the volume of claim %s/%s is in %q, which cannot be", node.Name, claim.Namespace, claim.Name, a.Path)
	}
	_, err := r.client.CoreV1().PersistentVolumes().Create(ctx, newVolume(claim, class, node, a), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // by an earlier life
	}
	if err != nil {
		return fmt.Errorf("create the volume of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	r.tell(node.Name, claim, corev1.EventTypeNormal, reasonProvisioned, fmt.Sprintf("volume %s is %s on node %s", nameFor(claim), a.Path, node.Name))
	r.tellUnenforced(node.Name, claim, a)
	return nil
}

func (r *run) tellUnenforced(node string, claim *corev1.PersistentVolumeClaim, a Answer) {
	if a.Unenforced != "" {
		r.tell(node, claim, corev1.EventTypeWarning, reasonNotEnforced, "the volume may take as much as the disk has: "+a.Unenforced)
	}
}

// capacityNote is the value of AnnotationCapacity.
func capacityNote(a Answer) string {
	if a.Unenforced != "" {
		return "not enforced: " + a.Unenforced
	}
	return "enforced"
}

func newVolume(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, a Answer) *corev1.PersistentVolume {
	policy, mode := corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeFilesystem
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Value() != a.Bytes { // resized since: that is done once it is bound
		size = *resource.NewQuantity(a.Bytes, resource.BinarySI)
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: nameFor(claim), Finalizers: []string{finalizer},
			Annotations: map[string]string{
				annProvisionedBy:   class.Provisioner,
				AnnotationNode:     node.Name,
				AnnotationCapacity: capacityNote(a),
			},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: size},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			MountOptions:                  class.MountOptions,
			VolumeMode:                    &mode,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: a.Path}},
			ClaimRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname(node)}}},
			}}}},
		},
	}
}

// hostname is the label that volumes are tied to; the kubelet sets it, and it may differ from the node's name.
func hostname(n *corev1.Node) string {
	if name := n.Labels[corev1.LabelHostname]; name != "" {
		return name
	}
	return n.Name
}

// grow tells the cluster what the volume holds now: first the volume, then the claim, as the kubelet expects.
func (r *run) grow(ctx context.Context, pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, size resource.Quantity, a Answer) error {
	capacity := map[string]any{"capacity": map[string]any{"storage": size.String()}}
	patch, err := json.Marshal(map[string]any{"spec": capacity,
		"metadata": map[string]any{"annotations": map[string]any{AnnotationCapacity: capacityNote(a)}}})
	if err != nil {
		return fmt.Errorf("encode the size of volume %s: %w", pv.Name, err)
	}
	_, err = r.client.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !gone(err) {
		return fmt.Errorf("set the size of volume %s: %w", pv.Name, err)
	}
	if patch, err = json.Marshal(map[string]any{"metadata": map[string]any{"uid": claim.UID}, "status": capacity}); err != nil {
		return fmt.Errorf("encode the size of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	_, err = r.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !gone(err) {
		return fmt.Errorf("set the size of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	r.tell(pv.Annotations[AnnotationNode], claim, corev1.EventTypeNormal, reasonResized, "the volume holds "+size.String())
	r.tellUnenforced(pv.Annotations[AnnotationNode], claim, a)
	return nil
}

func finalized(pv *corev1.PersistentVolume) bool { return slices.Contains(pv.Finalizers, finalizer) }

// release lets a PersistentVolume go.
func (r *run) release(ctx context.Context, pv *corev1.PersistentVolume) error {
	volumes := r.client.CoreV1().PersistentVolumes()
	precondition := metav1.NewUIDPreconditions(string(pv.UID))
	if err := volumes.Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: precondition}); err != nil && !gone(err) {
		return fmt.Errorf("delete volume %s: %w", pv.Name, err)
	}
	// Others remove their finalizers at the same time: without the test this could take one of theirs.
	path := fmt.Sprintf("/metadata/finalizers/%d", slices.Index(pv.Finalizers, finalizer))
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": pv.UID},
		{"op": "test", "path": path, "value": finalizer},
		{"op": "remove", "path": path},
	})
	if err != nil {
		return fmt.Errorf("encode the finalizers of volume %s: %w", pv.Name, err)
	}
	if _, err := volumes.Patch(ctx, pv.Name, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil && !gone(err) {
		return fmt.Errorf("let volume %s go: %w", pv.Name, err)
	}
	return nil
}

// unselect takes back the choice of a node that is gone, so that the scheduler makes another.
func (r *run) unselect(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": claim.UID, "annotations": map[string]any{annSelectedNode: nil}}})
	if err != nil {
		return fmt.Errorf("encode the choice of a node: %w", err)
	}
	_, err = r.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !gone(err) {
		return fmt.Errorf("take back the choice of a node for claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}
