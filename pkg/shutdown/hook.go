package shutdown

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hook runs a preStop hook until it has ended, or ctx ends.
func (e *ender) hook(ctx context.Context, p pod, c *runtimeapi.Container, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		deadline, _ := ctx.Deadline()
		_, stderr, err := e.runtime.ExecSync(ctx, c.GetId(), h.Exec.Command, time.Until(deadline))
		if err != nil {
			return fmt.Errorf("run %q: %w: %s", h.Exec.Command, err, strings.TrimSpace(string(stderr)))
		}
		return nil
	case h.HTTPGet != nil:
		return e.get(ctx, p, c, h.HTTPGet)
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("sleep for %d s: the pod's grace is over", h.Sleep.Seconds)
		}
	default:
		return errors.New("it is none of exec, httpGet and sleep")
	}
}

// get makes a hook's request, whose answer does not matter (pkg/kubelet/lifecycle/handlers.go:129).
func (e *ender) get(ctx context.Context, p pod, c *runtimeapi.Container, action *corev1.HTTPGetAction) error {
	host := action.Host
	if host == "" {
		status, err := e.runtime.PodSandboxStatus(ctx, p.sandbox, false)
		if err != nil {
			return fmt.Errorf("find the pod's address: %w", err)
		}
		host = status.GetStatus().GetNetwork().GetIp()
	}
	if host == "" {
		host = "127.0.0.1" // the host's network
	}
	port, err := portOf(c, action.Port)
	if err != nil {
		return err
	}
	target, err := url.Parse(action.Path)
	if err != nil {
		return fmt.Errorf("read the path %q: %w", action.Path, err)
	}
	target.Scheme, target.Host = strings.ToLower(string(action.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return fmt.Errorf("make the request to %s: %w", target, err)
	}
	for _, h := range action.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			request.Host = h.Value
		}
		request.Header.Add(h.Name, h.Value)
	}
	// As the kubelet's probes and hooks do: a pod's certificate is not for its address (pkg/probe/http/http.go:41).
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("ask %s: %w", target, err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16))
	return errors.Join(err, answer.Body.Close())
}

// portOf is a port's number, which may be given as the name of a port of the container.
func portOf(c *runtimeapi.Container, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	var ports []corev1.ContainerPort
	if text := c.GetAnnotations()[annotationPorts]; text != "" {
		if err := json.Unmarshal([]byte(text), &ports); err != nil {
			return 0, fmt.Errorf("read the container's ports %q: %w", text, err)
		}
	}
	for _, p := range ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	number, err := strconv.Atoi(port.StrVal)
	if err != nil {
		return 0, fmt.Errorf("the container has no port named %q", port.StrVal)
	}
	return number, nil
}
