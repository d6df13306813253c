package helm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxMessage keeps errors that contain a whole manifest out of the status.
const maxMessage = 1000

// report writes what was done, or why not, into the chart's status and, unless nothing was done, into an event.
func (r *run) report(c *Chart, done *result, failure error, failures int32) error {
	if c.DeletionTimestamp == nil || failure != nil {
		status := c.next(done, failure, failures)
		if !equality.Semantic.DeepEqual(status, c.Status) {
			if err := r.writeStatus(c, status); err != nil {
				return err
			}
		}
	}
	var stopped halted
	switch {
	case failure != nil && !errors.As(failure, &stopped):
		r.event(c, corev1.EventTypeWarning, "Failed", failure.Error())
	case done != nil && done.release != nil && done.step != "":
		reason := map[step]string{stepInstall: "Installed", stepUpgrade: "Upgraded"}[done.step]
		r.event(c, corev1.EventTypeNormal, reason, fmt.Sprintf("%s chart %s %s as revision %d of release %s in namespace %s", reason,
			done.release.Chart.Metadata.Name, done.release.Chart.Metadata.Version, done.release.Version, c.Name, done.release.Namespace))
	}
	return nil
}

func (r *run) writeStatus(c *Chart, status ChartStatus) error {
	// A merge patch leaves out what is empty, so the whole is taken away first; the API tests the version it is about.
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": c.UID},
		{"op": "add", "path": "/status", "value": status},
	})
	if err != nil {
		return fmt.Errorf("encode the status: %w", err)
	}
	_, err = r.objects.Resource(charts()).Namespace(c.Namespace).Patch(r.ctx, c.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of HelmChart %s: %w", c.key(), err)
	}
	return nil
}

// next is the chart's status after an attempt.
func (c *Chart) next(done *result, failure error, failures int32) ChartStatus {
	s := c.Status
	s.Conditions = append([]metav1.Condition(nil), s.Conditions...)
	s.JobName, s.ObservedGeneration, s.Namespace = "", c.Generation, c.target()
	if done != nil && done.release != nil {
		s.Revision, s.Release = done.release.Version, done.release.Info.Status.String()
		if m := done.release.Chart.Metadata; m != nil {
			s.ChartVersion, s.AppVersion = m.Version, m.AppVersion
		}
	}
	ready, failed := metav1.ConditionTrue, metav1.ConditionFalse
	reason := "Deployed"
	var stopped halted
	var final permanent
	switch {
	case failure == nil:
		s.LastError, s.Failures = "", 0
	case errors.As(failure, &stopped):
		ready, failed, reason = metav1.ConditionFalse, metav1.ConditionTrue, "Halted"
		if s.LastError == "" {
			s.LastError = clip(failure.Error())
		}
	case errors.As(failure, &final):
		ready, failed, reason = metav1.ConditionFalse, metav1.ConditionTrue, "GivenUp"
		s.LastError, s.Failures = clip(failure.Error()), failures
	default:
		ready, failed, reason = metav1.ConditionFalse, metav1.ConditionTrue, "Retrying"
		s.LastError, s.Failures = clip(failure.Error()), failures
	}
	message := s.LastError
	if errors.As(failure, &stopped) {
		message = clip(failure.Error())
	}
	for _, condition := range []metav1.Condition{
		{Type: ConditionReady, Status: ready, Reason: reason, Message: message, ObservedGeneration: c.Generation},
		{Type: ConditionFailed, Status: failed, Reason: reason, Message: message, ObservedGeneration: c.Generation},
	} {
		meta.SetStatusCondition(&s.Conditions, condition)
	}
	if names := c.Spec.ignored(); len(names) > 0 {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: ConditionIgnored, Status: metav1.ConditionTrue, Reason: "NoJobs", ObservedGeneration: c.Generation,
			Message: "these fields have no effect, since no Jobs are run: " + strings.Join(names, ", ")})
	} else {
		meta.RemoveStatusCondition(&s.Conditions, ConditionIgnored)
	}
	return s
}

// ignored are the fields that are set but mean nothing here.
func (s ChartSpec) ignored() []string {
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"helmVersion", s.HelmVersion != "" && s.HelmVersion != "v3"},
		{"jobImage", s.JobImage != ""},
		{"podSecurityContext", len(s.PodSecurityContext) > 0},
		{"securityContext", len(s.SecurityContext) > 0},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

func clip(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage], "") + "..."
}

// event tells users who look at the chart. It is no more than a help: when it cannot be written, the log says so.
func (r *run) event(c *Chart, kind, reason, message string) {
	now := metav1.Now()
	name := fmt.Sprintf(".%x", now.UnixNano())
	_, err := r.client.CoreV1().Events(c.Namespace).Create(r.ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name[:min(len(c.Name), validation.DNS1123SubdomainMaxLength-len(name))] + name},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: group + "/v1", Kind: "HelmChart", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
		},
		Type: kind, Reason: reason, Message: clip(message), Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "helm-controller"}, ReportingController: "knarr.io/helm-controller",
	}, metav1.CreateOptions{})
	if err != nil && r.ctx.Err() == nil {
		r.log.Debug("cannot write an event", "chart", c.key(), "reason", reason, "after", time.Since(now.Time), "error", err)
	}
}
