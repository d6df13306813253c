package crictl

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels that the kubelet gives to containers.
const (
	labelPod       = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
)

// ListOptions choose and show containers, pods or images. The zero value shows
// what runs, as a table.
type ListOptions struct {
	// Format is Table, JSON or YAML; "" is Table.
	Format string
	// Quiet shows ids alone, NoTrunc shows them whole.
	Quiet, NoTrunc bool
	// All shows containers that have ended too.
	All bool
	// Latest and Last show the newest one, or so many of the newest; 0 is all.
	Latest bool
	Last   int
	// ID is an id or the beginning of one, Pod that of a container's pod.
	ID, Pod string
	// Name, Namespace and Image are regular expressions.
	Name, Namespace, Image string
	// State is a state's name in lower case, for example "running" or "ready".
	State string
	// Labels must all match.
	Labels map[string]string
	// Digests shows a column more of images; Pinned shows pinned images alone.
	Digests, Pinned bool
}

// newest bounds a list that is sorted by age to what was asked for.
func newest[T any](all []T, o ListOptions) []T {
	last := o.Last
	if o.Latest {
		last = 1
	}
	if last > 0 && last < len(all) {
		return all[:last]
	}
	return all
}

// identified is what has an id: a container, a pod, an image.
type identified interface{ GetId() string }

// plainly shows a list in another form than a table, if o asks for one: ids alone, or the runtime's whole answer.
func plainly[T identified](c *Client, o ListOptions, all []T, answer proto.Message) (done bool, err error) {
	switch {
	case o.Quiet:
		ids := make([]string, len(all))
		for i, one := range all {
			ids[i] = one.GetId()
		}
		return true, c.lines(ids)
	case o.Format == JSON || o.Format == YAML:
		return true, c.message(answer, o.Format)
	}
	return false, nil
}

// patterns are the regular expressions of the command line.
type patterns struct{ name, namespace, image *regexp.Regexp }

func (o ListOptions) patterns() (p patterns, err error) {
	for _, f := range []struct {
		flag, expression string
		into             **regexp.Regexp
	}{{"name", o.Name, &p.name}, {"namespace", o.Namespace, &p.namespace}, {"image", o.Image, &p.image}} {
		if *f.into, err = pattern(f.flag, f.expression); err != nil {
			return p, err
		}
	}
	return p, nil
}

// pattern compiles a regular expression of the command line; "" matches all.
func pattern(flag, expression string) (*regexp.Regexp, error) {
	compiled, err := regexp.Compile(expression)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return compiled, nil
}

// PS lists containers.
func (c *Client) PS(ctx context.Context, o ListOptions) error {
	all, err := c.containers(ctx, o)
	if err != nil {
		return err
	}
	if done, err := plainly(c, o, all, &runtimeapi.ListContainersResponse{Containers: all}); done {
		return err
	}
	rows := [][]string{{"CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"}}
	for _, p := range all {
		rows = append(rows, []string{
			short(p.GetId(), o.NoTrunc), short(p.GetImage().GetImage(), o.NoTrunc), c.ago(p.GetCreatedAt()),
			stateName(p.GetState().String(), "CONTAINER_"), p.GetMetadata().GetName(), fmt.Sprint(p.GetMetadata().GetAttempt()),
			short(p.GetPodSandboxId(), o.NoTrunc), p.GetLabels()[labelPod], p.GetLabels()[labelNamespace],
		})
	}
	return c.table(rows)
}

// containers returns what o chooses, newest first.
func (c *Client) containers(ctx context.Context, o ListOptions) ([]*runtimeapi.Container, error) {
	filter := &runtimeapi.ContainerFilter{Id: o.ID, PodSandboxId: o.Pod, LabelSelector: o.Labels}
	switch {
	case o.State != "":
		value, ok := runtimeapi.ContainerState_value["CONTAINER_"+strings.ToUpper(o.State)]
		if !ok {
			return nil, fmt.Errorf("--state %q: want created, running, exited or unknown", o.State)
		}
		filter.State = &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState(value)}
	case !o.All && o.Last == 0 && !o.Latest:
		filter.State = &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	}
	want, err := o.patterns()
	if err != nil {
		return nil, err
	}
	all, err := c.runtime.ListContainers(quiet(ctx), filter)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", plain(err))
	}
	all = slices.DeleteFunc(all, func(p *runtimeapi.Container) bool {
		return !want.name.MatchString(p.GetMetadata().GetName()) || !want.namespace.MatchString(p.GetLabels()[labelNamespace]) ||
			!want.image.MatchString(p.GetImage().GetImage()+" "+p.GetImageRef()+" "+p.GetImageId())
	})
	sort.SliceStable(all, func(i, j int) bool { return all[i].GetCreatedAt() > all[j].GetCreatedAt() })
	return newest(all, o), nil
}

// Pods lists pods.
func (c *Client) Pods(ctx context.Context, o ListOptions) error {
	all, err := c.pods(ctx, o)
	if err != nil {
		return err
	}
	if done, err := plainly(c, o, all, &runtimeapi.ListPodSandboxResponse{Items: all}); done {
		return err
	}
	rows := [][]string{{"POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"}}
	for _, p := range all {
		handler := p.GetRuntimeHandler()
		if handler == "" {
			handler = "(default)"
		}
		rows = append(rows, []string{
			short(p.GetId(), o.NoTrunc), c.ago(p.GetCreatedAt()), stateName(p.GetState().String(), "SANDBOX_"),
			p.GetMetadata().GetName(), p.GetMetadata().GetNamespace(), fmt.Sprint(p.GetMetadata().GetAttempt()), handler,
		})
	}
	return c.table(rows)
}

func (c *Client) pods(ctx context.Context, o ListOptions) ([]*runtimeapi.PodSandbox, error) {
	filter := &runtimeapi.PodSandboxFilter{Id: o.ID, LabelSelector: o.Labels}
	if o.State != "" {
		value, ok := runtimeapi.PodSandboxState_value["SANDBOX_"+strings.ToUpper(o.State)]
		if !ok {
			return nil, fmt.Errorf("--state %q: want ready or notready", o.State)
		}
		filter.State = &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState(value)}
	}
	want, err := o.patterns()
	if err != nil {
		return nil, err
	}
	all, err := c.runtime.ListPodSandbox(quiet(ctx), filter)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", plain(err))
	}
	all = slices.DeleteFunc(all, func(p *runtimeapi.PodSandbox) bool {
		return !want.name.MatchString(p.GetMetadata().GetName()) || !want.namespace.MatchString(p.GetMetadata().GetNamespace())
	})
	sort.SliceStable(all, func(i, j int) bool { return all[i].GetCreatedAt() > all[j].GetCreatedAt() })
	return newest(all, o), nil
}

// stateName turns "CONTAINER_RUNNING" into "Running".
func stateName(state, prefix string) string {
	name := strings.ToLower(strings.TrimPrefix(state, prefix))
	if name == "notready" {
		return "NotReady"
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// Images lists images; o.Image is here the name of one, or a part of its names.
func (c *Client) Images(ctx context.Context, o ListOptions) error {
	all, err := c.images.ListImages(quiet(ctx), nil)
	if err != nil {
		return fmt.Errorf("list images: %w", plain(err))
	}
	all = slices.DeleteFunc(all, func(i *runtimeapi.Image) bool {
		names := strings.Join(append(i.GetRepoTags(), i.GetRepoDigests()...), " ")
		return o.Pinned && !i.GetPinned() || !strings.Contains(names+" "+i.GetId(), o.Image)
	})
	sort.SliceStable(all, func(i, j int) bool { return firstName(all[i]) < firstName(all[j]) })
	if done, err := plainly(c, o, all, &runtimeapi.ListImagesResponse{Images: all}); done {
		return err
	}
	header := []string{"IMAGE", "TAG", "IMAGE ID", "SIZE"}
	if o.Digests {
		header = slices.Insert(header, 2, "DIGEST")
	}
	rows := [][]string{header}
	for _, image := range all {
		rows = append(rows, imageRows(image, o)...)
	}
	return c.table(rows)
}

func firstName(i *runtimeapi.Image) string {
	for _, names := range [][]string{i.GetRepoTags(), i.GetRepoDigests()} {
		if len(names) > 0 {
			return names[0]
		}
	}
	return i.GetId()
}

// imageRows is one row for each name of an image.
func imageRows(i *runtimeapi.Image, o ListOptions) [][]string {
	repository, digest := "<none>", "<none>"
	if digests := i.GetRepoDigests(); len(digests) > 0 {
		repository, digest, _ = strings.Cut(digests[0], "@")
	}
	tags := i.GetRepoTags()
	if len(tags) == 0 {
		tags = []string{repository + ":<none>"}
	}
	var rows [][]string
	for _, name := range tags {
		// The last colon divides: a registry may have a port.
		colon := strings.LastIndexByte(name, ':')
		row := []string{name[:colon], name[colon+1:], short(i.GetId(), o.NoTrunc), size(i.GetSize())}
		if o.Digests {
			row = slices.Insert(row, 2, short(digest, o.NoTrunc))
		}
		rows = append(rows, row)
	}
	return rows
}
