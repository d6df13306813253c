package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// withVolume mounts a volume in every container of a pod.
func withVolume(p *corev1.Pod, name, path string, source corev1.VolumeSource) *corev1.Pod {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].VolumeMounts = append(p.Spec.Containers[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
	}
	return p
}

// says waits until a script in a pod prints want.
func (e *env) says(pod, script, want string) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("%q in pod %s to print %q", script, pod, want), func() error {
		out, err := e.inPod(pod, script)
		if err == nil && out != want {
			err = fmt.Errorf("it prints %q", out)
		}
		return err
	})
}

func TestConfigMapAndSecret(t *testing.T) {
	e := inNamespace(t)
	_, err := e.client.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf"}, Data: map[string]string{"colour": "blue", "size": "7"}}, metav1.CreateOptions{})
	e.must(err)
	_, err = e.client.CoreV1().Secrets(e.ns).Create(e.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, Data: map[string][]byte{"key": []byte("hush")}}, metav1.CreateOptions{})
	e.must(err)
	c := idle("main")
	c.Env = []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "secret"}, Key: "key"}}}}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "CONF_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}}
	p := pod("reader", c)
	withVolume(p, "conf", "/conf", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}})
	withVolume(p, "secret", "/secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret", DefaultMode: ptr.To[int32](0o400)}})
	e.startPod(p)
	for script, want := range map[string]string{
		"cat /conf/colour": "blue",
		"cat /secret/key; stat -Lc ' %a' /secret/key": "hush 400",
		"echo $KEY $CONF_colour $CONF_size":           "hush blue 7",
	} {
		e.says("reader", script, want)
	}
	e.mustKubectl("patch", "configmap", "conf", "-p", `{"data":{"colour":"red"}}`)
	e.says("reader", "cat /conf/colour", "red")
}

func TestMissingConfigMapHoldsAPodBack(t *testing.T) {
	e := inNamespace(t)
	p := pod("waiter", idle("main"))
	withVolume(p, "conf", "/conf", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}}})
	e.createPod(p)
	e.eventually("an event that says what is missing", func() error {
		out, err := e.runKubectl("get", "events", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, `"later" not found`) {
			err = fmt.Errorf("events say %q", out)
		}
		return err
	})
	e.mustKubectl("create", "configmap", "later", "--from-literal=a=b")
	e.podReady("waiter")
}

func TestProjectedVolume(t *testing.T) {
	e := inNamespace(t)
	e.mustKubectl("create", "configmap", "conf", "--from-literal=colour=blue")
	e.mustKubectl("create", "secret", "generic", "secret", "--from-literal=key=hush")
	p := pod("projected", idle("main"))
	p.Annotations = map[string]string{"note": "seen"}
	name := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	withVolume(p, "all", "/all", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: name("conf")}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: name("secret"), Items: []corev1.KeyToPath{{Key: "key", Path: "deep/key"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
			{Path: "note", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['note']"}}}}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: ptr.To[int64](3600), Path: "token"}},
	}}})
	e.startPod(p)
	e.says("projected", "cat /all/colour /all/deep/key /all/name /all/note", "bluehushprojectedseen")
	// The middle part of the token says whom it is for.
	e.says("projected", `cut -d. -f2 /all/token | sed 's/$/==/' | base64 -d 2>/dev/null | grep -o '"aud":\["vault"\]'`, `"aud":["vault"]`)
}

func TestEmptyDir(t *testing.T) {
	e := inNamespace(t)
	p := pod("shared", shell("writer", "echo hello > /data/x; trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"), idle("reader"))
	withVolume(p, "data", "/data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	withVolume(p, "mem", "/mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("8Mi"))}})
	made := e.startPod(p)
	e.eventually("one container's file in the other", func() error {
		_, err := e.runKubectl("exec", "shared", "-c", "reader", "--", "grep", "hello", "/data/x")
		return err
	})
	e.says("shared", "stat -fc %T /mem", "tmpfs")
	dir := "/var/lib/kubelet/pods/" + string(made.UID)
	if _, err := e.host.Exec(e.ctx, "test", "-d", dir); err != nil {
		t.Errorf("the pod has no directory on the host: %v", err)
	}
	e.mustKubectl("delete", "pod", "shared")
	e.eventually("the pod's directory to go", func() error {
		_, err := e.host.Exec(e.ctx, "test", "!", "-e", dir)
		return err
	})
}

func TestHostPath(t *testing.T) {
	e := inNamespace(t)
	dir := "/var/lib/knarr-e2e-" + e.ns
	p := pod("writer", idle("main"))
	withVolume(p, "host", "/host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}})
	e.startPod(p)
	e.says("writer", "echo written > /host/file && cat /host/file", "written")
	b, err := e.host.ReadFile(dir + "/file")
	if err != nil || string(b) != "written\n" {
		t.Errorf("the host has %q, %v", b, err)
	}
	e.mustKubectl("delete", "pod", "writer")
	if _, err := e.host.ReadFile(dir + "/file"); err != nil {
		t.Errorf("the file went with the pod: %v", err)
	}
}

func TestSubPathAndFSGroup(t *testing.T) {
	e := inNamespace(t)
	p := pod("owner", idle("main"))
	withVolume(p, "data", "/data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: "/part", SubPath: "part"})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), RunAsNonRoot: ptr.To(true), FSGroup: ptr.To[int64](2000)}
	e.startPod(p)
	e.says("owner", "id -u; touch /data/x && stat -c %g /data/x; touch /part/y && ls /data", "1000\n2000\npart\nx")
}
