package helm

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/release/common"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func deployed(version int) *result {
	return &result{step: stepUpgrade, release: &releasev1.Release{
		Version: version, Info: &releasev1.Info{Status: common.StatusDeployed}, Chart: &chartv2.Chart{Metadata: &chartv2.Metadata{Version: "1.2.3", AppVersion: "9"}},
	}}
}

// told is a status in one line.
func told(s ChartStatus) string {
	line := fmt.Sprintf("%s %d %s %s | %d %s |", s.Namespace, s.Revision, s.Release, s.ChartVersion, s.Failures, s.LastError)
	for _, c := range s.Conditions {
		line += fmt.Sprintf(" %s=%s %s", c.Type, c.Status, c.Reason)
	}
	return line
}

func TestStatus(t *testing.T) {
	before := ChartStatus{Namespace: "n", Revision: 3, Release: "failed", ChartVersion: "1.0.0", LastError: "the cause", Failures: 2}
	tests := []struct {
		name string
		had  ChartStatus
		done *result
		err  error
		want string
	}{
		{"first", ChartStatus{}, deployed(1), nil, "n 1 deployed 1.2.3 | 0  | Ready=True Deployed Failed=False Deployed"},
		{"after failures", before, deployed(4), nil, "n 4 deployed 1.2.3 | 0  | Ready=True Deployed Failed=False Deployed"},
		{"nothing to do", ChartStatus{Namespace: "n", Revision: 4, Release: "deployed", ChartVersion: "1.2.3"}, &result{}, nil, "n 4 deployed 1.2.3 | 0  | Ready=True Deployed Failed=False Deployed"},
		{"no chart to be had", ChartStatus{Namespace: "n", Revision: 4, Release: "deployed", ChartVersion: "1.2.3"}, nil, errors.New("offline"), "n 4 deployed 1.2.3 | 3 offline | Ready=False Retrying Failed=True Retrying"},
		{"cannot be", ChartStatus{}, nil, fmt.Errorf("fetch: %w", permanent{errors.New("no URL")}), "n 0   | 3 fetch: no URL | Ready=False GivenUp Failed=True GivenUp"},
		{"halted keeps the cause", before, nil, halted{errors.New("policy")}, "n 3 failed 1.0.0 | 2 the cause | Ready=False Halted Failed=True Halted"},
		{"halted without a cause", ChartStatus{}, nil, halted{errors.New("policy")}, "n 0   | 0 policy | Ready=False Halted Failed=True Halted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Chart{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "n", Generation: 7}, Status: tt.had}
			got := c.next(tt.done, tt.err, 3)
			if told(got) != tt.want {
				t.Errorf("got  %s\nwant %s", told(got), tt.want)
			}
			if got.ObservedGeneration != 7 {
				t.Errorf("about generation %d", got.ObservedGeneration)
			}
			// The same again is no change, and so is not written.
			if c.Status = got; tt.err == nil && !reflect.DeepEqual(c.next(&result{}, nil, 1), got) {
				t.Error("the same again is another status")
			}
		})
	}
}

func TestIgnoredFields(t *testing.T) {
	c := &Chart{Spec: ChartSpec{JobImage: "x", HelmVersion: "v2"}}
	c.Status = c.next(&result{}, nil, 1)
	if got := told(c.Status); !strings.HasSuffix(got, "Ignored=True NoJobs") || !strings.Contains(c.Status.Conditions[2].Message, "helmVersion, jobImage") {
		t.Errorf("status is %s, %v", got, c.Status.Conditions)
	}
	c.Spec = ChartSpec{HelmVersion: "v3", Bootstrap: true}
	if got := told(c.next(&result{}, nil, 1)); strings.Contains(got, "Ignored") {
		t.Errorf("status is %s", got)
	}
}

func TestManaged(t *testing.T) {
	for _, tt := range []struct {
		annotations map[string]string
		want        bool
	}{
		{nil, true},
		{map[string]string{annotationManagedBy: managedBy}, true},
		{map[string]string{annotationManagedBy: "fleet"}, false},
		{map[string]string{annotationUnmanaged: ""}, false},
		{map[string]string{annotationUnmanaged: "true", annotationManagedBy: managedBy}, false},
	} {
		if got := (&Chart{ObjectMeta: metav1.ObjectMeta{Annotations: tt.annotations}}).managed(); got != tt.want {
			t.Errorf("%v: %v", tt.annotations, got)
		}
	}
}
