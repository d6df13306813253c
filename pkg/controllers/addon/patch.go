package addon

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
)

// overlay changes objects as the patches say. A patch has the kind and the name of the object, its namespace if the name
// alone does not tell, and the fields to change: by a strategic merge where Kubernetes knows the kind, else by a JSON
// merge (RFC 7386). "$patch: delete" drops the object. A patch that fits no object is a problem, and so is one that cannot
// be merged: its object is left out, since without the patch it is not what the user wants. The others count.
func overlay(objects, patches []object) ([]object, []problem) {
	var problems []problem
	for _, p := range patches {
		found := false
		var kept []object
		for _, o := range objects {
			if !p.fits(o) {
				kept = append(kept, o)
				continue
			}
			found = true
			if p.Object["$patch"] == "delete" {
				continue
			}
			merged, err := merge(o, p)
			if err != nil {
				problems = append(problems, p.final(err))
				continue
			}
			kept = append(kept, merged)
		}
		if !found {
			problems = append(problems, p.final(errors.New("there is no such object to patch")))
		}
		objects = kept
	}
	return objects, problems
}

// fits tells whether a patch is one for o.
func (o object) fits(target object) bool {
	return o.GroupVersionKind().GroupKind() == target.GroupVersionKind().GroupKind() && o.GetName() == target.GetName() &&
		(o.GetNamespace() == "" || o.key() == target.key())
}

// merge returns o with the patch applied.
func merge(o, patch object) (object, error) {
	change := runtime.DeepCopyJSON(patch.Object)
	// The patch may be written in another version of the API than the manifest.
	delete(change, "apiVersion")
	base := runtime.DeepCopyJSON(o.Object)
	typed, err := scheme.Scheme.New(o.GroupVersionKind())
	if err != nil { // not a kind of Kubernetes' own
		o.Unstructured = o.DeepCopy()
		o.Object = mergeJSON(base, change)
		return o, o.tidy()
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(typed)
	if err != nil {
		return o, fmt.Errorf("read how to patch a %s: %w", o.GetKind(), err)
	}
	merged, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(base, change, meta)
	if err != nil {
		return o, fmt.Errorf("patch: %w", err)
	}
	o.Unstructured = o.DeepCopy()
	o.Object = merged
	return o, o.tidy()
}

// mergeJSON is RFC 7386.
func mergeJSON(base, change map[string]any) map[string]any {
	if base == nil {
		base = make(map[string]any)
	}
	for k, v := range change {
		switch v := v.(type) {
		case nil:
			delete(base, k)
		case map[string]any:
			inner, _ := base[k].(map[string]any)
			base[k] = mergeJSON(inner, v)
		default:
			base[k] = v
		}
	}
	return base
}
