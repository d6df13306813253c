package crictl

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Inspect shows all that is known of containers. The format Table is a short form.
func (c *Client) Inspect(ctx context.Context, ids []string, format string) error {
	return c.each(ids, format, func(id string) (proto.Message, map[string]string, [][]string, error) {
		r, err := c.runtime.ContainerStatus(quiet(ctx), id, format != Table)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("inspect container %s: %w", id, plain(err))
		}
		s := r.GetStatus()
		return s, r.GetInfo(), [][]string{
			{"ID:", s.GetId()}, {"Name:", s.GetMetadata().GetName()}, {"Attempt:", fmt.Sprint(s.GetMetadata().GetAttempt())},
			{"Pod:", s.GetLabels()[labelNamespace] + "/" + s.GetLabels()[labelPod]}, {"Image:", s.GetImage().GetImage()},
			{"State:", stateName(s.GetState().String(), "CONTAINER_")}, {"Created:", moment(s.GetCreatedAt())},
			{"Started:", moment(s.GetStartedAt())}, {"Finished:", moment(s.GetFinishedAt())},
			{"Exit code:", fmt.Sprint(s.GetExitCode())}, {"Reason:", s.GetReason()}, {"Message:", s.GetMessage()}, {"Log:", s.GetLogPath()},
		}, nil
	})
}

// InspectPods shows all that is known of pods.
func (c *Client) InspectPods(ctx context.Context, ids []string, format string) error {
	return c.each(ids, format, func(id string) (proto.Message, map[string]string, [][]string, error) {
		r, err := c.runtime.PodSandboxStatus(quiet(ctx), id, format != Table)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("inspect pod %s: %w", id, plain(err))
		}
		s := r.GetStatus()
		return s, r.GetInfo(), [][]string{
			{"ID:", s.GetId()}, {"Name:", s.GetMetadata().GetName()}, {"Namespace:", s.GetMetadata().GetNamespace()},
			{"UID:", s.GetMetadata().GetUid()}, {"Attempt:", fmt.Sprint(s.GetMetadata().GetAttempt())},
			{"State:", stateName(s.GetState().String(), "SANDBOX_")}, {"Created:", moment(s.GetCreatedAt())},
			{"IP:", s.GetNetwork().GetIp()},
		}, nil
	})
}

// InspectImages shows all that is known of images.
func (c *Client) InspectImages(ctx context.Context, names []string, format string) error {
	return c.each(names, format, func(name string) (proto.Message, map[string]string, [][]string, error) {
		r, err := c.images.ImageStatus(quiet(ctx), &runtimeapi.ImageSpec{Image: name}, format != Table)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("inspect image %s: %w", name, plain(err))
		}
		s := r.GetImage()
		if s == nil {
			return nil, nil, nil, fmt.Errorf("inspect image %s: it is not on this node", name)
		}
		rows := [][]string{{"ID:", s.GetId()}}
		for _, tag := range s.GetRepoTags() {
			rows = append(rows, []string{"Tag:", tag})
		}
		for _, digest := range s.GetRepoDigests() {
			rows = append(rows, []string{"Digest:", digest})
		}
		return s, r.GetInfo(), append(rows, []string{"Size:", size(s.GetSize())}, []string{"Pinned:", fmt.Sprint(s.GetPinned())}), nil
	})
}

// each shows one document for each name: several follow each other, as with crictl.
func (c *Client) each(names []string, format string, ask func(string) (proto.Message, map[string]string, [][]string, error)) error {
	for _, name := range names {
		status, info, rows, err := ask(name)
		if err != nil {
			return err
		}
		if format == Table {
			err = c.table(rows)
		} else {
			var document any
			if document, err = verbose(status, info); err == nil {
				err = c.document(document, format)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// moment is a time in nanoseconds since 1970, "" for none.
func moment(nanoseconds int64) string {
	if nanoseconds == 0 {
		return ""
	}
	return time.Unix(0, nanoseconds).UTC().Format(time.RFC3339)
}

// Info shows the runtime's state and configuration.
func (c *Client) Info(ctx context.Context, format string) error {
	r, err := c.runtime.Status(quiet(ctx), true)
	if err != nil {
		return fmt.Errorf("ask for the runtime's state: %w", plain(err))
	}
	if format == Table {
		rows := [][]string{{"CONDITION", "STATUS", "REASON", "MESSAGE"}}
		for _, condition := range r.GetStatus().GetConditions() {
			rows = append(rows, []string{condition.GetType(), fmt.Sprint(condition.GetStatus()), condition.GetReason(), condition.GetMessage()})
		}
		return c.table(rows)
	}
	raw, err := rawMessage(r.GetStatus())
	if err != nil {
		return err
	}
	document := map[string]any{"status": raw}
	for key, value := range infoFields(r.GetInfo()) {
		document[key] = value
	}
	return c.document(document, format)
}

// Version shows the runtime's name and versions.
func (c *Client) Version(ctx context.Context, format string) error {
	v, err := c.runtime.Version(quiet(ctx), "v1")
	if err != nil {
		return fmt.Errorf("ask for the runtime's version: %w", plain(err))
	}
	if format == JSON || format == YAML {
		return c.message(v, format)
	}
	return c.table([][]string{
		{"Version:", v.GetVersion()}, {"RuntimeName:", v.GetRuntimeName()},
		{"RuntimeVersion:", v.GetRuntimeVersion()}, {"RuntimeApiVersion:", v.GetRuntimeApiVersion()},
	})
}
