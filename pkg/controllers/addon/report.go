package addon

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// reasons are those of the events that tell of a state.
func reasons() map[State]string {
	return map[State]string{Ready: "Applied", Waiting: "WaitingForKind", Failed: "Failed", Conflict: "NameTaken"}
}

// report says how an Addon is: in its status, in an event, in the log, to knarr status; each only if it is news.
func (j *job) report(ctx context.Context, st status) error {
	name := j.source.name
	if !j.status.equal(st) {
		// Of an Addon that somebody deletes, the next go makes a new one.
		if err := j.cluster.saveStatus(ctx, name, st); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	was := j.status
	j.status = st
	j.controller.say(name, &st)
	if was.State == st.State && was.Message == st.Message && was.Checksum == st.Checksum {
		return nil
	}
	reason, ok := reasons()[st.State]
	if !ok {
		return nil
	}
	if st.State == Ready {
		level := slog.LevelInfo
		if j.config.isPackaged(j.source.path) {
			level = slog.LevelDebug // a healthy start is quiet
		}
		j.log.Log(ctx, level, "manifest is applied", "addon", name, "objects", st.Objects)
		j.cluster.event(name, j.uid, corev1.EventTypeNormal, reason, st.Objects+" objects are applied")
		return nil
	}
	j.log.Warn("manifest is not applied as it should be", "addon", name, "state", st.State, "problem", st.Message)
	j.cluster.event(name, j.uid, corev1.EventTypeWarning, reason, st.Message)
	return nil
}
