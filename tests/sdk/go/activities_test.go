package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

func Echo(_ context.Context, text string) (string, error) { return text, nil }

func FailsTwice(ctx context.Context) (int, error) {
	attempt := int(activity.GetInfo(ctx).Attempt)
	if attempt < 3 {
		return 0, temporal.NewApplicationError("not yet", "NotYet", attempt)
	}
	return attempt, nil
}

func AlwaysFails(context.Context) error {
	return temporal.NewApplicationError("broken", "Broken", "detail")
}

func FailsForGood(context.Context) error {
	return temporal.NewNonRetryableApplicationError("for good", "Final", nil)
}

func HangsAfterOneHeartbeat(ctx context.Context) error {
	activity.RecordHeartbeat(ctx, 42)
	<-ctx.Done()
	return ctx.Err()
}

func ResumesFromHeartbeat(ctx context.Context) (int, error) {
	if !activity.HasHeartbeatDetails(ctx) {
		activity.RecordHeartbeat(ctx, 17)
		return 0, errors.New("crashed after 17")
	}
	var progress int
	err := activity.GetHeartbeatDetails(ctx, &progress)
	return progress, err
}

func BeatsUntilCancelled(ctx context.Context) error {
	for {
		activity.RecordHeartbeat(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func CompletesLater(context.Context) (string, error) { return "", activity.ErrResultPending }

// RunsActivity runs the named activity without arguments, three attempts at most.
func RunsActivity(ctx workflow.Context, name string, startToClose, heartbeat time.Duration) (int, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: startToClose,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    50 * time.Millisecond,
			BackoffCoefficient: 1,
			MaximumAttempts:    3,
		},
	})
	var value int
	err := workflow.ExecuteActivity(ctx, name).Get(ctx, &value)
	return value, err
}

func RunsEcho(ctx workflow.Context, text string) (string, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	var value string
	err := workflow.ExecuteActivity(ctx, Echo, text).Get(ctx, &value)
	return value, err
}

func TestActivityResultAndHistory(t *testing.T) {
	s := begin(t, []any{RunsEcho}, Echo)
	run := s.start(RunsEcho, "hello")
	require.Equal(t, "hello", result[string](s, run))
	require.Equal(t, []string{
		"WorkflowExecutionStarted",
		"WorkflowTaskScheduled",
		"WorkflowTaskStarted",
		"WorkflowTaskCompleted",
		"ActivityTaskScheduled",
		"ActivityTaskStarted",
		"ActivityTaskCompleted",
		"WorkflowTaskScheduled",
		"WorkflowTaskStarted",
		"WorkflowTaskCompleted",
		"WorkflowExecutionCompleted",
	}, names(s.verified(run, RunsEcho)))
}

func TestPayloadOfOneMegabyte(t *testing.T) {
	s := begin(t, []any{RunsEcho}, Echo)
	text := payload(1 << 20)
	run := s.start(RunsEcho, text)
	require.Equal(t, text, result[string](s, run))
	s.verified(run, RunsEcho)
}

func TestActivityRetriesUntilSuccess(t *testing.T) {
	s := begin(t, []any{RunsActivity}, FailsTwice)
	run := s.start(RunsActivity, "FailsTwice", 5*time.Second, time.Duration(0))
	require.Equal(t, 3, result[int](s, run))
	started := ofType(s.verified(run, RunsActivity), enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED)
	require.Len(t, started, 1)
	attributes := started[0].GetActivityTaskStartedEventAttributes()
	require.EqualValues(t, 3, attributes.Attempt)
	require.Equal(t, "not yet", attributes.LastFailure.Message)
}

func TestActivityFailures(t *testing.T) {
	s := begin(t, []any{RunsActivity}, AlwaysFails, FailsForGood)
	for name, expected := range map[string]struct {
		state   enumspb.RetryState
		message string
	}{
		"AlwaysFails":  {enumspb.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED, "broken"},
		"FailsForGood": {enumspb.RETRY_STATE_NON_RETRYABLE_FAILURE, "for good"},
	} {
		run := s.start(RunsActivity, name, 5*time.Second, time.Duration(0))
		err := run.Get(s.ctx, nil)
		var activityError *temporal.ActivityError
		require.ErrorAs(t, err, &activityError)
		require.Equal(t, expected.state, activityError.RetryState())
		var applicationError *temporal.ApplicationError
		require.ErrorAs(t, activityError, &applicationError)
		require.Equal(t, expected.message, applicationError.Message())
		s.verified(run, RunsActivity)
	}
}

func TestHeartbeatTimeoutCarriesTheLastDetails(t *testing.T) {
	s := begin(t, []any{RunsActivity}, HangsAfterOneHeartbeat)
	run := s.start(RunsActivity, "HangsAfterOneHeartbeat", 15*time.Second, 500*time.Millisecond)
	var timeout *temporal.TimeoutError
	require.ErrorAs(t, run.Get(s.ctx, nil), &timeout)
	require.Equal(t, enumspb.TIMEOUT_TYPE_HEARTBEAT, timeout.TimeoutType())
	var progress int
	s.must(timeout.LastHeartbeatDetails(&progress))
	require.Equal(t, 42, progress)
}

func TestStartToCloseTimeout(t *testing.T) {
	s := begin(t, []any{RunsActivity}, HangsAfterOneHeartbeat)
	run := s.start(RunsActivity, "HangsAfterOneHeartbeat", 300*time.Millisecond, time.Duration(0))
	var timeout *temporal.TimeoutError
	require.ErrorAs(t, run.Get(s.ctx, nil), &timeout)
	require.Equal(t, enumspb.TIMEOUT_TYPE_START_TO_CLOSE, timeout.TimeoutType())
}

func TestHeartbeatDetailsReachTheNextAttempt(t *testing.T) {
	s := begin(t, []any{RunsActivity}, ResumesFromHeartbeat)
	require.Equal(t, 17, result[int](s, s.start(RunsActivity, "ResumesFromHeartbeat", 5*time.Second, 5*time.Second)))
}

func TestActivityCompletedByID(t *testing.T) {
	s := begin(t, []any{RunsActivity}, CompletesLater)
	run := s.start(RunsActivity, "CompletesLater", 15*time.Second, time.Duration(0))
	s.eventually(func() bool {
		description, err := everlog.DescribeWorkflowExecution(s.ctx, run.GetID(), "")
		s.must(err)
		pending := description.PendingActivities
		return len(pending) == 1 && pending[0].State == enumspb.PENDING_ACTIVITY_STATE_STARTED
	}, "the activity is started")
	scheduled := ofType(s.history(run), enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)[0]
	id := scheduled.GetActivityTaskScheduledEventAttributes().ActivityId
	s.must(everlog.CompleteActivityByID(s.ctx, "default", run.GetID(), run.GetRunID(), id, 99, nil))
	require.Equal(t, 99, result[int](s, run))
	s.verified(run, RunsActivity)
}

func LocalAnswer(context.Context) (int, error) { return 42, nil }

func RunsLocally(ctx workflow.Context) (int, error) {
	ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: 5 * time.Second})
	var value int
	err := workflow.ExecuteLocalActivity(ctx, LocalAnswer).Get(ctx, &value)
	return value, err
}

func TestLocalActivity(t *testing.T) {
	s := begin(t, []any{RunsLocally}, LocalAnswer)
	run := s.start(RunsLocally)
	require.Equal(t, 42, result[int](s, run))
	require.Len(t, ofType(s.verified(run, RunsLocally), enumspb.EVENT_TYPE_MARKER_RECORDED), 1)
}
