CREATE TABLE `steps` (
  `id` char(36) NOT NULL,
  `name` longtext NOT NULL COMMENT '步骤名称',
  `description` longtext COMMENT '步骤描述',
  `parameters` text COMMENT '参数JSON',
  `creator_email` longtext NOT NULL COMMENT '创建者邮箱',
  `exception_type` longtext COMMENT '异常类型',
  `executor_type` longtext NOT NULL COMMENT '执行器类型 http/shell/func',
  `http_method` longtext COMMENT 'HTTP方法',
  `http_url` longtext COMMENT 'HTTP URL',
  `http_headers` text COMMENT 'HTTP请求头JSON',
  `http_body` text COMMENT 'HTTP请求体',
  `shell_script` text COMMENT 'Shell脚本',
  `shell_env` text COMMENT '环境变量JSON',
  `timeout` bigint DEFAULT '30' COMMENT '超时时间(秒)',
  `retries` bigint DEFAULT '3' COMMENT '重试次数',
  `created_at` datetime(3) DEFAULT NULL,
  `updated_at` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE `workflow_templates` (
  `id` char(36) NOT NULL,
  `name` longtext NOT NULL COMMENT '模板名称',
  `description` longtext COMMENT '模板描述',
  `creator_email` longtext NOT NULL COMMENT '创建者邮箱',
  `is_active` tinyint(1) DEFAULT '1' COMMENT '是否激活',
  `created_at` datetime(3) DEFAULT NULL,
  `updated_at` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE `workflow_template_steps` (
  `id` char(36) NOT NULL,
  `template_id` char(36) NOT NULL COMMENT '模板ID',
  `step_id` char(36) NOT NULL COMMENT '步骤ID',
  `dependencies` text COMMENT '依赖关系JSON',
  `run_mode` varchar(191) DEFAULT 'serial' COMMENT '运行模式 serial/parallel',
  `on_failure` varchar(191) DEFAULT 'abort' COMMENT '失败策略 abort/skip',
  `order` bigint DEFAULT NULL COMMENT '步骤顺序',
  `created_at` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `fk_workflow_template_steps_step` (`step_id`),
  KEY `fk_workflow_templates_steps` (`template_id`),
  CONSTRAINT `fk_workflow_template_steps_step` FOREIGN KEY (`step_id`) REFERENCES `steps` (`id`),
  CONSTRAINT `fk_workflow_templates_steps` FOREIGN KEY (`template_id`) REFERENCES `workflow_templates` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE `workflow_executions` (
  `id` char(36) NOT NULL,
  `template_id` char(36) NOT NULL COMMENT '模板ID',
  `status` varchar(191) DEFAULT 'pending' COMMENT '执行状态 pending/running/success/failed/cancelled',
  `started_at` datetime(3) DEFAULT NULL,
  `finished_at` datetime(3) DEFAULT NULL,
  `duration` bigint DEFAULT NULL COMMENT '执行时长(毫秒)',
  `error` text COMMENT '错误信息',
  `created_by` longtext COMMENT '执行者',
  `created_at` datetime(3) DEFAULT NULL,
  `updated_at` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `fk_workflow_executions_template` (`template_id`),
  CONSTRAINT `fk_workflow_executions_template` FOREIGN KEY (`template_id`) REFERENCES `workflow_templates` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE `workflow_step_executions` (
  `id` char(36) NOT NULL,
  `execution_id` char(36) NOT NULL COMMENT '执行ID',
  `step_id` char(36) NOT NULL COMMENT '步骤ID',
  `status` varchar(191) DEFAULT 'pending' COMMENT '执行状态',
  `output` text COMMENT '输出结果',
  `error` text COMMENT '错误信息',
  `started_at` datetime(3) DEFAULT NULL,
  `finished_at` datetime(3) DEFAULT NULL,
  `duration` bigint DEFAULT NULL COMMENT '执行时长(毫秒)',
  `retry_count` bigint DEFAULT '0' COMMENT '重试次数',
  `created_at` datetime(3) DEFAULT NULL,
  `updated_at` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `fk_workflow_step_executions_step` (`step_id`),
  KEY `fk_workflow_executions_steps` (`execution_id`),
  CONSTRAINT `fk_workflow_executions_steps` FOREIGN KEY (`execution_id`) REFERENCES `workflow_executions` (`id`),
  CONSTRAINT `fk_workflow_step_executions_step` FOREIGN KEY (`step_id`) REFERENCES `steps` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE `distributed_locks` (
  `id` bigint unsigned NOT NULL AUTO_INCREMENT,
  `lock_key` varchar(255) NOT NULL,
  `owner` varchar(255) NOT NULL,
  `expires_at` datetime(3) NOT NULL,
  `created_at` datetime(3) DEFAULT NULL,
  `updated_at` datetime(3) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `idx_distributed_locks_lock_key` (`lock_key`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
